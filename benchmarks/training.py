"""What a whole run takes on this machine's CPU.

`whole`: the book's recipe, 4 epochs at 64 px and `fine_tune(2)` at 128 px, by hand with the book's `get_dls` and in
one line with ours: time.
`seeds`: accuracy and validation loss of that on the samples, with a quarter of the channels, so that it learns them
in the time, and a seed for each pair.
`pixels`: three sizes over the final size throughout, both ours: the share of the time over the share of the pixels.
`without_workers`: an epoch with `num_workers=0` over one with two workers: they take cores from the model, and the
memory of the process they are forked from is copied where it writes.

Batches are of 64 images, the default of `get_dls`: with 32 the optimizer's step, which costs as much at any size,
takes 6% of the model's time at 128 px and 21% at 64."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # threads that wait leave the cores to the workers
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.samples import glyphs
from loading import book, workers
from photos import photos
from table import paired, save_rows

def learner(dls, n_out, widen=1.):
    return Learner(dls, xresnet18(n_out=n_out, widen=widen), loss_func=CrossEntropyLossFlat(), metrics=accuracy)

@contextmanager
def timed(res):
    t = time.perf_counter()
    yield
    res['seconds'] = time.perf_counter()-t

def validated(learn):
    with learn.no_bar(): return dict(zip(('loss','accuracy'), learn.validate()))

def by_hand(path, lrs, bs=64, tfms={}, **kwargs):
    res,dls = {},{s: book(s, path, **tfms) for s in (64,128)}
    for o in dls.values():
        for dl in o.loaders: dl.bs = bs
    learn = learner(dls[64], 10, **kwargs)
    with learn.no_bar(), learn.no_logging(), timed(res):
        learn.fit_one_cycle(4, lrs[0])
        learn.dls = dls[128]
        learn.fine_tune(2, lrs[1])
    return res | validated(learn)

def in_one(path, lrs, bs=64, tfms={}, **kwargs):
    res,dls = {},partial(get_dls, path=path, num_workers=workers, **tfms)
    learn = learner(dls(128, bs), 10, **kwargs)
    plan = Plan((4,2), (64,128), lr_max=lrs, fit='fine_tune')
    with learn.no_bar(), learn.no_logging(), timed(res): learn.fit_progressive(plan, get_dls=dls)
    return res | validated(learn)

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
    path = glyphs(400, 100)
    df = _pairs(pairs, path, (3e-3,1e-3))['seconds']
    r,hand = df.in_one/df.by_hand,df.by_hand.median()
    yield dict(measure='seconds of a whole run', what='xresnet18, 4 epochs at 64, fine_tune(2) at 128',
               target='at most 0.6', book=hand, ours=df.in_one.median(), ratio=r.median(), low=r.min(), high=r.max())

    dls = partial(get_dls, path=path, num_workers=workers)
    alone = learner(dls(128, 64), 10).preflight((4,2), (64,128), get_dls=dls, seconds=8).df
    yield dict(measure='seconds of a whole run', what='the same, with nothing but the model: ours can get no lower',
               book=hand, ours=(alone.model*alone.epochs).sum())

def seeds(pairs):
    as_drawn = dict(do_flip=False)      # a letter in a mirror is another
    df = _pairs(pairs, glyphs(), (8e-3,3e-3), bs=32, tfms=as_drawn, widen=.25)
    for k in ('accuracy','loss'):
        a,b = df[k].by_hand,df[k].in_one
        what = f'difference {(b-a).mean():+.4f}, its standard error {(b-a).sem():.4f}'
        yield dict(measure=f'{k}, {pairs} seeds', what=what, target='not worse', book=a.mean(), ours=b.mean())

def pixels(pairs):
    path,n,bs = photos(1200, 60),3,64      # long epochs: the workers start with each
    dls = partial(get_dls, path=path, num_workers=workers)
    plan = Plan(n, default_sizes(128), bs=bs, fit='single_cycle')
    def _seconds(seed, progressive):
        set_seed(seed)
        learn,t = learner(dls(128, bs), 2),{}
        with learn.no_bar(), learn.no_logging(), timed(t):
            if progressive: learn.fit_progressive(plan, get_dls=dls)
            else: learn.fit_one_cycle(n, 3e-3)
        return t['seconds']
    rows = []
    for i in range(pairs):
        res = {o: _seconds(i, o) for o in ((True,False) if i%2 else (False,True))}
        rows.append((res[False], res[True], res[True]/res[False]/plan.rel_cost))
        print(rows[-1], flush=True)
    a,b,r = np.array(rows).T
    sizes = ', '.join(str(o.size) for o in plan)
    yield dict(measure='share of the time over share of the pixels', target='at most 1.1',
               what=f"{sizes} px over {plan[-1].size} px throughout, {n} epochs, {plan.rel_cost:.2f} of the pixels",
               book=np.median(a), ours=np.median(b), ratio=np.median(r), low=r.min(), high=r.max())

def without_workers(pairs):
    def _seconds(path, size, n_out, n):
        set_seed(0)
        learn,t = learner(get_dls(size, 64, path, num_workers=n), n_out),{}
        with learn.no_bar(), learn.no_logging(), timed(t): learn.fit(1)
        return t['seconds']
    for name,path,n_out in (('letters', glyphs(400, 100), 10), ('photographs', photos(1200, 60), 2)):
        for size in (64,128):
            run = partial(_seconds, path, size, n_out)
            yield dict(measure='seconds of an epoch, without workers', what=f'{name} at {size}',
                       **paired(partial(run, workers), partial(run, 0), pairs))

@call_parse
def main(
    names:str='whole,pixels,seeds,without_workers', # Tables to measure
    pairs:int=5, # Pairs of runs, each with its seed
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
