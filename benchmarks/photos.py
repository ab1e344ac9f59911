"Folders of photographs in Imagenette's layout, made from the two that scikit-learn ships"
from fastai.vision.all import *
from fastai_progresize.samples import whole_dir
from sklearn.datasets import load_sample_images

def _photo(src, size, rng):
    w = rng.uniform(.8, 1)*min(src.width, src.height*size[0]/size[1])
    h = w*size[1]/size[0]
    x,y = rng.uniform(0, src.width-w),rng.uniform(0, src.height-h)
    return src.resize(size, Image.LANCZOS, box=(x, y, x+w, y+h))

def photos(n_train, n_valid, size=(500,375), seed=42):
    "`n_train` and `n_valid` random crops of `size` (width, height), as JPEGs"
    path = fastai_path('data')/f'photos-{n_train}-{n_valid}-{size[0]}x{size[1]}'
    if path.exists(): return path
    srcs,rng = L(load_sample_images().images).map(Image.fromarray),random.Random(seed)
    with whole_dir(path) as tmp:
        for split,n in (('train',n_train),('val',n_valid)):
            for i in range(n):
                (tmp/split/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
                _photo(srcs[i%2], size, rng).save(tmp/split/'ab'[i%2]/f'{i:05d}.jpg', quality=90)
    return path
