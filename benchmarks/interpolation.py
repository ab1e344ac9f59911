"""Ways to interpolate once at 128 px: how sharp, beside the book's two interpolations from 460 px, and milliseconds an image on one core, of the resizing of the item and of what turns, warps and crops it.

The sharpness is that of the middle half of the images, as Pillow's perspective cannot reflect at their border."""
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.augment import _homography
from photos import photos
from table import save_rows

size = 128

def grad(x):
    x = x[...,size//4:-size//4,size//4:-size//4]
    return ((x[...,1:]-x[...,:-1]).abs().mean() + (x[...,1:,:]-x[...,:-1,:]).abs().mean()).item()/2

def bilinear(t, x, mode='bilinear'):
    t.mode = mode
    return t(x, split_idx=0)

def bicubic(t, x): return bilinear(t, x, 'bicubic')

def pooled(t, x):
    t.size = (2*size,2*size)
    return F.avg_pool2d(bilinear(t, x).as_subclass(Tensor), 2)

def perspective(t, x, resample=Image.BILINEAR):
    "Pillow's: each image by itself, in the transform of the item"
    t.before_call(x, 0)
    n = x.shape[-1]
    inv = tensor([[2/(size-1),0,-1],[0,2/(size-1),-1],[0,0,1]])          # from pixels of the result to -1..1
    fwd = tensor([[(n-1)/2,0,(n-1)/2],[0,(n-1)/2,(n-1)/2],[0,0,1]])      # from -1..1 to pixels of the item
    res = []
    for im,h in zip(x, fwd @ _homography(t.mat, t.coord_fs, len(x)) @ inv):
        im = Image.fromarray((im*255).byte().permute(1,2,0).numpy())
        res.append(image2tensor(im.transform((size,size), Image.PERSPECTIVE, (h/h[2,2]).flatten()[:8].tolist(), resample)).float()/255)
    return torch.stack(res)

def perspective_bicubic(t, x): return perspective(t, x, Image.BICUBIC)

def ways(n):
    torch.set_num_threads(1)
    files = get_image_files(photos(600, 300)/'train').sorted()[::600//n]
    ims = [PILImage.create(f) for f in files]
    def items(presize, resample):
        t = Resize(presize, resamples=(resample,0))
        random.seed(0)
        start = time.perf_counter()
        x = torch.stack([image2tensor(t(im, split_idx=0)) for im in ims])
        return TensorImage(x.float()/255),(time.perf_counter()-start)/n*1e3
    x,item_ms = items(460, Image.BILINEAR)
    set_seed(0); start = time.perf_counter()
    for t in (two := aug_transforms(size=size, min_scale=.75, max_lighting=0)): x = t(x, split_idx=0)
    ms,sharp = (time.perf_counter()-start)/n*1e3,grad(x)
    yield dict(method="the book's two, from 460 px", filter='bilinear', presize=460, sharpness=1., item_ms=item_ms, batch_ms=ms)
    for presize in (148,166,186,205,256):
        for name,resample in dict(bilinear=Image.BILINEAR, bicubic=Image.BICUBIC, lanczos=Image.LANCZOS).items():
            x,item_ms = items(presize, resample)
            for f in (bilinear,bicubic,pooled,perspective,perspective_bicubic):
                t = AffineOnce(aug_transforms(size=size, max_lighting=0, xtra_tfms=crop_zoom(.75, size=size))[0], size)
                set_seed(0); start = time.perf_counter()
                y = f(t, x)
                yield dict(method=f.__name__.replace('_', ' '), filter=name, presize=presize, sharpness=grad(y)/sharp, item_ms=item_ms, batch_ms=(time.perf_counter()-start)/n*1e3)

@call_parse
def main(
    n:int=60, # Images
):
    "Measure, print and save"
    save_rows('interpolation', ways(n))
