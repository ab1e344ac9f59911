"""What loading costs at each size, and how sharp the images are: `get_dls` and `at_size(...).fast()` beside the book's
`get_dls`, written out with fastai alone.

The two of a pair are measured in turn, and the median of the ratios is what counts. Each run reads each image several
times, so that the start of its workers is under 5% of it. `decoded`, `filling`, `stand_in` and `copies_memory` take
9,000 images and an epoch as it is, workers' start included."""
import multiprocessing, threading, warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.data import copy_dl, tfms_size
from fastai_progresize.load.augment import get_presize
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

def _sharpness(todo):
    plain = dict(stats=False, max_lighting=0)
    for name,size,path,get,kw in todo:
        b,a = book(size, path, **plain),get(size, path, **plain, **kw)
        for dl in b.loaders+a.loaders: dl.bs = 2        # the book has one crop for each batch: many of them
        for part,n in (('train',6),('valid',1)):
            yield dict(measure=f'sharpness, {part}', what=name, book=grad(getattr(b, part), n),
                       ours=grad(getattr(a, part), n), target='0.97 to 1.05')

def sharpness(pairs):
    small,large = photos(600, 300),photos(100, 20, (4000,3000))
    todo = [(f'get_dls {s}', s, small, ours, {}) for s in (224,128,64)]
    todo += [('at_size 128', 128, small, derived, {}), ('12 megapixels 128', 128, large, ours, {}),
             ('12 megapixels 128, cache', 128, large, ours, dict(cache=True))]
    yield from _sharpness(todo)

def decoded_sharpness(pairs):
    copies = dict(cache=fresh_cache(), decoded=True)
    yield from _sharpness([(f'get_dls {s}, decoded', s, photos(600, 300), ours, copies) for s in (224,128,64)])

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

# Decoded copies

def fresh_cache():
    "An empty folder for copies"
    path = fastai_path('data')/'benchmark-copies'
    shutil.rmtree(path, ignore_errors=True)
    return path

def many(): return photos(8000, 1000)

class MapBatches(torch.utils.data.IterableDataset):
    "Slices of the map with a random crop, copied into batches by numpy"
    def __init__(self, pixels): self.pixels = pixels
    def __iter__(self):
        info,p = torch.utils.data.get_worker_info(),self.pixels
        i,n = (info.id,info.num_workers) if info else (0,1)
        rng,data,(h,w) = random.Random(i),p.data.numpy(),p.size
        rows = list(p.rows.values())[i::n]
        rng.shuffle(rows)
        for part in chunked(rows, bs):
            b = np.empty((len(part),3,h,w), np.uint8)
            for i,r in enumerate(part):
                at,w0,h0 = p.places[r,:3].tolist()
                x = data[at:at+3*h0*w0].reshape(3, h0, w0)
                top,left = rng.randrange(h0-h+1),rng.randrange(w0-w+1)
                b[i] = x[:,top:top+h,left:left+w]
            yield [torch.from_numpy(b)]

def bare_map(pixels):
    "Torch's `DataLoader` over numpy alone, in as many processes"
    return torch.utils.data.DataLoader(MapBatches(pixels), batch_size=None, num_workers=workers)

def _fill(dls):
    for dl in dls.loaders:
        for _ in copy_dl(dl, after_batch=noop): pass
    return items_only(dls)

def decoded(pairs):
    path = many()
    for size,target in ((224,7),(128,14),(64,25)):
        a = _fill(ours(size, path, cache=fresh_cache(), decoded=True))
        what,measure = f'get_dls {size}, decoded','images/s, items alone'
        yield dict(measure=measure, what=what, target=target,
                   **paired(partial(read, items_only(book(size, path))), partial(read, a), pairs))
        yield dict(measure=measure, what=f'{what}, over get_dls {size}', target={128:4, 64:6}.get(size),
                   **paired(partial(read, items_only(ours(size, path))), partial(read, a), pairs))

class Alone:
    "The same slices in this process"
    def __init__(self, pixels): self.ds = MapBatches(pixels)
    def __iter__(self): return iter(self.ds)

def over_slices(pairs):
    "Decoded copies over slices of the same map, which numpy copies: in two workers of torch's loader, and without"
    path = many()
    for size in (224,128,64):
        a = _fill(ours(size, path, cache=fresh_cache(), decoded=True))
        for name,make in (('two workers',bare_map),('no worker',Alone)):
            yield dict(measure='images/s, items alone', what=f"get_dls {size}, decoded, over numpy's slices, {name}",
                       **paired(partial(read, make(a.crops.pixels)), partial(read, a), pairs))

def filling(pairs):
    path = many()
    def _seconds(dl): return len(dl.dataset)/read(dl)
    for size in (128,64):
        b = items_only(ours(size, path))
        def _first(): return _seconds(items_only(ours(size, path, cache=fresh_cache(), decoded=True)))
        yield dict(measure='seconds of an epoch, items alone', what=f'get_dls {size}, the epoch that fills the copies',
                   target=1.15, **paired(partial(_seconds, b), _first, pairs))

class StandIn(Module):
    "Sleeps as long as a small net on a GPU takes: 1/6,000 s per image of 64 px, in proportion to the pixels"
    def __init__(self): self.p = nn.Parameter(torch.zeros(1))
    def forward(self, x):
        time.sleep(len(x)*self.size**2/64**2/6000)
        return self.p.expand(len(x), 2)

class _Pixels(Callback):
    "Batches come without the transforms that a GPU does; the model is told their size"
    order = 100
    def before_epoch(self):
        if not self.dls.train.after_batch.fs: return
        self.learn.model.size = tfms_size(self.dls.train)[0]
        for dl in self.dls.loaders: dl.after_batch = Pipeline([])

def _no_loss(p, y): return p.sum()

def timed_run(sizes, n_epoch=6, **kwargs):
    "Seconds of a run, from the first to the last batch"
    get = partial(ours, path=many(), **kwargs)
    learn = Learner(get(224), StandIn(), loss_func=_no_loss, lr=1e-9)
    with learn.no_bar(), learn.no_logging():
        t = time.perf_counter()
        learn.fit_progressive(n_epoch, sizes, get_dls=lambda size, bs: get(size), fit='flat_cos', cbs=_Pixels(),
                              check=False)
        return time.perf_counter()-t

def stand_in(pairs):
    sizes = (64,128,224)
    cost = Plan(6, sizes).rel_cost
    cache = fresh_cache()
    for s in sizes: _fill(ours(s, many(), cache=cache, decoded=True))
    for name,kw,n in (('decoded',dict(cache=cache, decoded=True),pairs), ('without copies',{},min(pairs, 3))):
        r = paired(partial(timed_run, (224,), **kw), partial(timed_run, sizes, **kw), n)
        r |= {k: r[k]/cost for k in ('ratio','low','high')}
        yield dict(measure='share of the time over share of the pixels', what=f'64, 128, 224 px, {name}', target=1.05,
                   **r)

def _private():
    "Memory that is not of mapped files, of this process and its children, MiB"
    def _of(pid):
        try: lines = open(f'/proc/{pid}/status').read()
        except OSError: return 0
        return sum(int(o) for o in re.findall(r'Rss(?:Anon|Shmem):\s+(\d+)', lines))/1024
    me = os.getpid()
    return sum(map(_of, [me, *open(f'/proc/{me}/task/{me}/children').read().split()]))

def _peak(f):
    "The most memory while `f` runs"
    done,seen = threading.Event(),[]
    def _watch():
        while not done.wait(.1): seen.append(_private())
    t = threading.Thread(target=_watch)
    t.start()
    f()
    done.set()
    t.join()
    return max(seen)

def copies_memory(pairs):
    copies = dict(cache=fresh_cache(), decoded=True)
    runs = [partial(_peak, partial(timed_run, (64,128,224), n_epoch=3, **kw)) for kw in ({},copies)]
    yield dict(measure='memory, MiB', what='three stages, decoded, over without copies', target='at most 200 more',
               **paired(*runs, 2))

tables = ('sharpness decoded_sharpness batches items over_pillow at_size large decoded over_slices filling stand_in'
          ' copies_memory').split()

@call_parse
def main(
    names:str=','.join(tables), # Tables to measure
    pairs:int=5, # Pairs of runs
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
