"""Ways to interpolate once at 128 px: how sharp, beside the book's two interpolations from 460 px, and milliseconds per
image on one core, of the resizing of the item and of what turns, warps and crops it.

The sharpness is that of the middle half of the images, as Pillow's perspective cannot reflect at their border."""
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.load.augment import AffineOnce, crop_zoom, homography
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
    for im,h in zip(x, fwd @ homography(t.mat, t.coord_fs) @ inv):
        im = Image.fromarray((im*255).byte().permute(1,2,0).numpy())
        im = im.transform((size,size), Image.PERSPECTIVE, (h/h[2,2]).flatten()[:8].tolist(), resample)
        res.append(image2tensor(im).float()/255)
    return torch.stack(res)

def perspective_bicubic(t, x): return perspective(t, x, Image.BICUBIC)

def items(ims, presize, resample):
    "A batch of items of `presize`, and milliseconds per item"
    t = Resize(presize, resamples=(resample,0))
    random.seed(0)
    start = time.perf_counter()
    x = torch.stack([image2tensor(t(im, split_idx=0)) for im in ims])
    return TensorImage(x.float()/255),(time.perf_counter()-start)/len(ims)*1e3

def timed(f, x):
    "What `f` makes of the batch `x`, and milliseconds per image"
    set_seed(0)
    start = time.perf_counter()
    y = f(x)
    return y,(time.perf_counter()-start)/len(x)*1e3

def book(x): return compose_tfms(x, aug_transforms(size=size, min_scale=.75, max_lighting=0), split_idx=0)

def once():
    "What turns, warps and crops with one interpolation"
    tfm, = aug_transforms(size=size, max_lighting=0, xtra_tfms=crop_zoom(.75, size=size))
    return AffineOnce(tfm, size)

def ways(n):
    torch.set_num_threads(1)
    files = get_image_files(photos(600, 300)/'train').sorted()[::600//n]
    ims = [PILImage.create(f) for f in files]
    x,item_ms = items(ims, 460, Image.BILINEAR)
    y,ms = timed(book, x)
    sharp = grad(y)
    yield dict(method="the book's two, from 460 px", filter='bilinear', presize=460, sharpness=1., item_ms=item_ms,
               batch_ms=ms)
    filters = dict(bilinear=Image.BILINEAR, bicubic=Image.BICUBIC, lanczos=Image.LANCZOS)
    for presize in (148,166,186,205,256):
        for name,resample in filters.items():
            x,item_ms = items(ims, presize, resample)
            for way in (bilinear,bicubic,pooled,perspective,perspective_bicubic):
                y,ms = timed(partial(way, once()), x)
                yield dict(method=way.__name__.replace('_', ' '), filter=name, presize=presize, sharpness=grad(y)/sharp,
                           item_ms=item_ms, batch_ms=ms)

@call_parse
def main(
    n:int=60, # Images
):
    "Measure, print and save"
    save_rows('interpolation', ways(n))
