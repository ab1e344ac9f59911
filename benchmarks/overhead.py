"""Wall time of `fit_progressive` over the same loop written by hand, with the same `DataLoaders`; the checks before
training apart.

The two of a pair are processes that take turns, a batch each: a machine whose speed drifts by more than the
difference then slows both alike. A turn is timed from the start of a batch to the start of the next, so that all
that happens between batches and epochs counts. The time spent in the callbacks is measured too, from inside: of
`fit_progressive`'s three, and of the one that `fit_one_cycle` has in their place."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ['OMP_WAIT_POLICY'] = 'passive'   # a process that waits for its turn leaves the cores alone
from torch.multiprocessing import get_context
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.report.history import StageRecorder
from fastai_progresize.preflight import check_run
from fastai_progresize.run import Run
from fastai_progresize.samples import glyphs

sizes,bs = (32,48),32

def setup():
    set_seed(42)
    dls = {s: get_dls(s, bs, glyphs(), num_workers=0) for s in sizes}
    return Learner(dls[48], xresnet18(n_out=10, widen=0.25), loss_func=CrossEntropyLossFlat(), metrics=accuracy),dls

def by_hand(learn, dls, n):
    learn.dls = dls[32]
    learn.fit_one_cycle(n, 3e-3)
    learn.dls = dls[48]
    learn.fine_tune(n, 1e-3)

def plan(n): return Plan((n,n), sizes, lr_max=(3e-3,1e-3), fit='fine_tune')

def in_one(learn, dls, n): learn.fit_progressive(plan(n), get_dls=lambda size,bs: dls[size], check=False)

class Turns:
    "The seconds of the own turns"
    def __init__(self, pipe): self.pipe,self.seconds = pipe,0.
    def take(self):
        self.pipe.recv()
        self.t = time.perf_counter()
    def give(self):
        self.seconds += time.perf_counter()-self.t
        self.pipe.send(None)

def clock(cls):
    "Let `cls` count the seconds spent in its events"
    cls.seconds,call = 0.,cls.__call__
    def timed(self, event_name):
        t = time.perf_counter()
        try: return call(self, event_name)
        finally: cls.seconds += time.perf_counter()-t
    cls.__call__ = timed

def one_run(which, pipe, first, n, results):
    learn,dls = setup()
    run = Run(learn, plan(n), get_dls=lambda size,bs: dls[size])
    t = time.perf_counter()
    check_run(run)      # in both, which then have done the same
    checks = time.perf_counter()-t
    learn,dls = setup()
    timed = [ProgressiveResize,ProgressiveSchedule,StageRecorder] if which=='in_one' else [ParamScheduler]
    for o in timed: clock(o)
    turns,one_batch = Turns(pipe),Learner.one_batch
    def in_turn(self, i, b):
        turns.give()
        turns.take()
        one_batch(self, i, b)
    Learner.one_batch = in_turn
    if not first: pipe.send(None)
    turns.take()
    with learn.no_bar(), learn.no_logging(): globals()[which](learn, dls, n)
    turns.give()
    callbacks = sum(o.seconds for o in timed)/turns.seconds
    total = sum(p.double().abs().sum().item() for p in learn.model.parameters())
    results.put((which, dict(seconds=turns.seconds, checks=checks, callbacks=callbacks, weights=total)))

def one_pair(names, epochs):
    "What two runs took that take turns, by name"
    ctx = get_context('spawn')
    pipes,results = ctx.Pipe(),ctx.Queue()
    def _process(name, pipe): return ctx.Process(target=one_run, args=(name, pipe, pipe is pipes[0], epochs, results))
    ps = list(map(_process, names, pipes))
    for p in ps: p.start()
    res = dict(results.get() for p in ps)
    for p in ps: p.join()
    return res

def summary(df):
    mid = df.median(numeric_only=True)
    yield (f"by hand {mid.by_hand:.1f} s, fit_progressive {mid.in_one:.1f} s, ratio: median {mid.ratio:.4f},"
           f" {df.ratio.min():.4f} to {df.ratio.max():.4f}, same weights: {df.same_weights.all()}")
    yield (f"share of the time in the callbacks: {mid.by_hand_callbacks:.3%} by hand, {mid.in_one_callbacks:.3%} in"
           " fit_progressive")
    yield f"checks, apart: {mid.checks:.2f} s"

@call_parse
def main(
    pairs:int=6, # Pairs of runs, an even number as the two change places
    epochs:int=9, # Epochs at each size
    out:Path='benchmarks/overhead.csv', # File for the times of all runs
):
    "Time pairs of runs, print their median ratio and its range"
    glyphs()
    rows = []
    for i in range(pairs):
        res = one_pair(('by_hand','in_one') if i%2 else ('in_one','by_hand'), epochs)
        a,b = res['by_hand'],res['in_one']
        rows.append(dict(pair=i, by_hand=a['seconds'], in_one=b['seconds'], ratio=b['seconds']/a['seconds'],
                         checks=min(a['checks'], b['checks']), same_weights=a['weights']==b['weights'],
                         by_hand_callbacks=a['callbacks'], in_one_callbacks=b['callbacks']))
        pd.DataFrame(rows).to_csv(out, index=False)
        print(rows[-1], flush=True)
    for o in summary(pd.DataFrame(rows)): print(o)
