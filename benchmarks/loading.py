"""What loading costs at each size, and how sharp the images are: `get_dls` and `at_size(...).fast()` beside the book's
`get_dls`, written out with fastai alone.

The two of a pair are measured in turn, and the median of the ratios is what counts. Each run reads each image several
times, so that the start of its workers is under 5% of it."""
import multiprocessing, warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.data import copy_dl
from fastai_progresize.fast.augment import get_presize
from photos import photos
from table import paired, save_rows

workers,bs = 2,64

def _files(path, times): return get_image_files(path).sorted()*times

def block(times=1):
    return DataBlock((ImageBlock,CategoryBlock), get_items=partial(_files, times=times), get_y=parent_label,
                     splitter=GrandparentSplitter(valid_name='val'))

def book(size, path, times=1, stats=True, **kwargs):
    "The book's `get_dls`"
    tfms = aug_transforms(size=size, min_scale=0.75, **kwargs)
    if stats: tfms.append(Normalize.from_stats(*imagenet_stats))
    return block(times).new(item_tfms=Resize(460), batch_tfms=tfms).dataloaders(path, bs=bs, num_workers=workers)

def ours(size, path, times=1, stats=True, **kwargs):
    stats = imagenet_stats if stats else None
    return get_dls(size, bs, path, num_workers=workers, dblock=block(times), stats=stats, **kwargs)

def derived(size, path, **kwargs): return book(224, path, **kwargs).at_size(size).fast()

def read(dl, n=None):
    "Images per second, from the first batch on if not all `n` are to be read"
    seen,t = 0,time.perf_counter()
    for i,b in enumerate(dl):
        if n and i==0: t = time.perf_counter(); continue      # the start of the workers apart
        seen += len(b[0])
        if n and seen>=n: break
    return seen/(time.perf_counter()-t)

def items_only(dls): return copy_dl(dls.train, after_batch=noop)

def _grad(x): return ((x[...,1:]-x[...,:-1]).abs().mean() + (x[...,1:,:]-x[...,:-1,:]).abs().mean()).item()/2

def grad(dl, epochs):
    "Mean absolute gradient of the images"
    return np.mean([_grad(x) for _ in range(epochs) for x,*_ in dl])

def sharpness(pairs):
    small,large = photos(600, 300),photos(100, 20, (4000,3000))
    plain = dict(stats=False, max_lighting=0)
    todo = [(f'get_dls {s}', s, small, ours, {}) for s in (224,128,64)]
    todo += [('at_size 128', 128, small, derived, {}), ('12 megapixels 128', 128, large, ours, {}),
             ('12 megapixels 128, cache', 128, large, ours, dict(cache=True))]
    for name,size,path,get,kw in todo:
        b,a = book(size, path, **plain),get(size, path, **plain, **kw)
        for dl in b.loaders+a.loaders: dl.bs = 2        # the book has one crop for each batch: many of them
        for part,n in (('train',6),('valid',1)):
            yield dict(measure=f'sharpness, {part}', what=name, book=grad(getattr(b, part), n),
                       ours=grad(getattr(a, part), n), target='0.97 to 1.05')

def batches(pairs):
    for size,times,target in ((224,2,3),(128,5,5),(64,8,8)):
        b,a = book(size, photos(600, 300)).train,ours(size, photos(600, 300), times=times).train
        yield dict(measure='images/s, batches', what=f'get_dls {size}', target=target,
                   **paired(partial(read, b), partial(read, a), pairs))

def items(pairs):
    b,a = items_only(book(128, photos(600, 300), times=4)),items_only(ours(128, photos(600, 300), times=12))
    yield dict(measure='images/s, items alone', what='get_dls 128', target=3,
               **paired(partial(read, b), partial(read, a), pairs))

def _bare(files, size, draft):
    for f in files:
        with Image.open(f) as im:
            if draft: im.draft('RGB', (size,size))
            im.convert('RGB').resize((size,size), Image.BICUBIC)

def bare(files, size, draft):
    "Images per second of Pillow alone, in as many processes"
    ps = [multiprocessing.Process(target=_bare, args=(files[i::workers], size, draft)) for i in range(workers)]
    t = time.perf_counter()
    for p in ps: p.start()
    for p in ps: p.join()
    return len(files)/(time.perf_counter()-t)

def over_pillow(pairs):
    path,size = photos(600, 300),get_presize(128)
    files,dl = get_image_files(path/'train')*12,items_only(ours(128, path, times=12))
    for draft in (False,True):
        name = f"get_dls 128, over Pillow's decode{' at 1/2' if draft else ''} and resize to {size}"
        yield dict(measure='images/s, items alone', what=name, target=.55,
                   **paired(partial(bare, files, size, draft), partial(read, dl), pairs))

def at_size(pairs):
    path = photos(600, 300)
    b,a = book(128, path).train,derived(128, path, times=3).train
    yield dict(measure='images/s, batches', what='at_size 128 of a DataBlock at 224', target=2.5,
               **paired(partial(read, b), partial(read, a), pairs))

def large(pairs):
    path = photos(100, 20, (4000,3000))
    b = items_only(book(128, path, times=6))
    for cache,times,n,target in ((False,6,400,4.5),(True,24,2000,100)):
        a = items_only(ours(128, path, times=times, cache=cache))
        name = f"12 megapixels at 128{', cache' if cache else ''}"
        yield dict(measure='images/s, items alone', what=name, target=target,
                   **paired(partial(read, b, 400), partial(read, a, n), pairs))

@call_parse
def main(
    names:str='sharpness,batches,items,over_pillow,at_size,large', # Tables to measure
    pairs:int=5, # Pairs of runs
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
