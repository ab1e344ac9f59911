"""What a whole run takes on this machine's CPU.

`whole`: the book's recipe, 4 epochs at 64 px and `fine_tune(2)` at 128 px, by hand with the book's `get_dls` and in one line with ours: time.
`seeds`: accuracy and validation loss of that on the samples, with a quarter of the channels, so that it learns them in the time, and a seed for each pair.
`pixels`: three sizes over the final size throughout, both ours: the share of the time over the share of the pixels.
`without_workers`: an epoch with `num_workers=0` over one with two workers: they take cores from the model, and the memory of the process they are forked from is copied where it writes.

Batches are of 64 images, the default of `get_dls`: with 32 the optimizer's step, which costs as much at any size, takes 6% of the model's time at 128 px and 21% at 64."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # the model's threads leave the cores to the workers while they wait
from fastai.vision.all import *
from fastai_progresize.all import *
from loading import book, workers
from photos import photos
from table import paired, save_rows

def learner(dls, n_out, widen=1.): return Learner(dls, xresnet18(n_out=n_out, widen=widen), loss_func=CrossEntropyLossFlat(), metrics=accuracy)

@contextmanager
def timed(res):
    t = time.perf_counter()
    yield
    res['seconds'] = time.perf_counter()-t

def by_hand(path, lrs, bs=64, tfms={}, **kwargs):
    res,dls = {},{s: book(s, path, **tfms) for s in (64,128)}
    for o in dls.values():
        for dl in o.loaders: dl.bs = bs
    learn = learner(dls[64], 10, **kwargs)
    with learn.no_bar(), learn.no_logging(), timed(res):
        learn.fit_one_cycle(4, lrs[0])
        learn.dls = dls[128]
        learn.fine_tune(2, lrs[1])
    with learn.no_bar(): return {**res, **dict(zip(('loss','accuracy'), learn.validate()))}

def in_one(path, lrs, bs=64, tfms={}, **kwargs):
    res,dls = {},partial(get_dls, path=path, num_workers=workers, **tfms)
    learn = learner(dls(128, bs), 10, **kwargs)
    with learn.no_bar(), learn.no_logging(), timed(res): learn.fit_progressive((4,2), (64,128), lr_max=lrs, get_dls=dls)
    with learn.no_bar(): return {**res, **dict(zip(('loss','accuracy'), learn.validate()))}

def _pairs(pairs, path, lrs, **kwargs):
    rows = []
    for seed in range(pairs):
        res = {}
        for o in ((by_hand,in_one) if seed%2 else (in_one,by_hand)):
            set_seed(seed)
            res[o.__name__] = o(path, lrs, **kwargs)
        rows.append({(k,w): res[w][k] for k in ('seconds','accuracy','loss') for w in res})
        print({' '.join(k): round(v, 4) for k,v in rows[-1].items()}, flush=True)
    df = pd.DataFrame(rows)
    df.columns = pd.MultiIndex.from_tuples(df.columns)
    return df

def whole(pairs):
    df = _pairs(pairs, glyphs(400, 100), (3e-3,1e-3))['seconds']
    r = df.in_one/df.by_hand
    yield dict(measure='seconds of a whole run', what='xresnet18, 4 epochs at 64, fine_tune(2) at 128', target='at most 0.6', book=df.by_hand.median(), ours=df.in_one.median(), ratio=r.median(), low=r.min(), high=r.max())

    learn = learner(get_dls(128, 64, glyphs(400, 100), num_workers=workers), 10)
    alone = learn.preflight((4,2), (64,128), get_dls=partial(get_dls, path=glyphs(400, 100), num_workers=workers), seconds=8).df
    model = (alone.model*alone.epochs).sum()
    yield dict(measure='seconds of a whole run', what='the same, with nothing but the model: ours can get no lower', book=df.by_hand.median(), ours=model)

def seeds(pairs):
    df = _pairs(pairs, glyphs(), (8e-3,3e-3), bs=32, tfms=dict(do_flip=False), widen=.25)     # a letter in a mirror is another
    for k in ('accuracy','loss'):
        a,b = df[k].by_hand,df[k].in_one
        yield dict(measure=f'{k}, {pairs} seeds', what=f'difference {(b-a).mean():+.4f}, its standard error {(b-a).sem():.4f}', target='not worse', book=a.mean(), ours=b.mean())

def pixels(pairs):
    dls,n,bs = partial(get_dls, path=photos(1200, 60), num_workers=workers),3,64      # long epochs: the workers start with each
    stages = make_stages(n, default_sizes(128), bs=bs, fit='single_cycle')
    rows = []
    for i in range(pairs):
        res = {}
        for sizes in ((stages,None) if i%2 else (None,stages)):
            set_seed(i)
            learn,t = learner(dls(128, bs), 2),{}
            with learn.no_bar(), learn.no_logging(), timed(t):
                if sizes: learn.fit_progressive(sizes, get_dls=dls)
                else: learn.fit_one_cycle(n, 3e-3)
            res[sizes is not None] = t['seconds']
        rows.append((res[False], res[True], res[True]/res[False]/stages.rel_cost))
        print(rows[-1], flush=True)
    a,b,r = map(np.array, zip(*rows))
    yield dict(measure='share of the time over share of the pixels', what=f"{', '.join(str(o.size) for o in stages)} px over {stages[-1].size} px throughout, {n} epochs, {stages.rel_cost:.2f} of the pixels", target='at most 1.1',
               book=np.median(a), ours=np.median(b), ratio=np.median(r), low=r.min(), high=r.max())

def without_workers(pairs):
    def seconds(path, size, n_out, n):
        set_seed(0)
        learn,t = learner(get_dls(size, 64, path, num_workers=n), n_out),{}
        with learn.no_bar(), learn.no_logging(), timed(t): learn.fit(1)
        return t['seconds']
    for name,path,n_out in (('letters', glyphs(400, 100), 10), ('photographs', photos(1200, 60), 2)):
        for size in (64,128): yield dict(measure='seconds of an epoch, without workers', what=f'{name} at {size}',
                                         **paired(*(partial(seconds, path, size, n_out, n) for n in (workers,0)), pairs))

@call_parse
def main(
    names:str='whole,pixels,seeds,without_workers', # Tables to measure
    pairs:int=5, # Pairs of runs, each with its seed
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
