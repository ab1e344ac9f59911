"""Wall time of `fit_progressive` over the same loop written by hand, with the same `DataLoaders`; the checks before training apart.

The two of a pair run at the same time, each on a core of its own, and change cores with each pair: a machine whose speed drifts by more than the difference slows both alike. The time spent in the
callbacks is measured too, from inside: of `fit_progressive`'s three, and of the one that `fit_one_cycle` has in their place."""
import json, subprocess, sys, warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *

sizes,bs = (32,48),32

def setup():
    set_seed(42)
    dls = {s: get_dls(s, bs, glyphs(), num_workers=0) for s in sizes}
    return Learner(dls[48], xresnet18(n_out=10, widen=0.25), loss_func=CrossEntropyLossFlat(), metrics=accuracy),dls

def by_hand(learn, dls, n):
    learn.dls = dls[32]; learn.fit_one_cycle(n, 3e-3)
    learn.dls = dls[48]; learn.fine_tune(n, 1e-3)

def in_one(learn, dls, n): learn.fit_progressive((n,n), sizes, lr_max=(3e-3,1e-3), get_dls=lambda size,bs: dls[size], check=False)

def clock(cls):
    "Let `cls` count the seconds spent in its events"
    cls.seconds,call = 0.,cls.__call__
    def timed(self, event_name):
        t = time.perf_counter()
        try: return call(self, event_name)
        finally: cls.seconds += time.perf_counter()-t
    cls.__call__ = timed

def one_run(which, core, n):
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    learn,dls = setup()
    t = time.perf_counter()
    make = StageData(learn.dls, make_stages((n,n), sizes, bs=bs), lambda size,bs: dls[size])
    check_stages(learn, make.stages, make)
    checks = time.perf_counter()-t
    learn,dls = setup()
    timed = [ProgressiveResize,ProgressiveSchedule,StageRecorder] if which=='in_one' else [ParamScheduler]
    for o in timed: clock(o)
    t = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): globals()[which](learn, dls, n)
    res = dict(seconds=time.perf_counter()-t, checks=checks, callbacks=sum(o.seconds for o in timed), weights=sum(p.double().abs().sum().item() for p in learn.model.parameters()))
    print(json.dumps(res))

@call_parse
def main(
    pairs:int=4, # Pairs of runs
    epochs:int=5, # Epochs at each size
    run:str=None, # Used by the script itself: one run, `by_hand` or `in_one`
    core:int=0, # Core of that run
    out:Path='benchmarks/overhead.csv', # File for the times of all runs
):
    "Time pairs of runs, print medians and the range of their ratio"
    if run: return one_run(run, core, epochs)
    glyphs()
    rows = []
    for i in range(pairs):
        ps = {o: subprocess.Popen([sys.executable, '-W', 'ignore', __file__, '--run', o, '--core', str(c), '--epochs', str(epochs)], stdout=subprocess.PIPE, text=True)
              for o,c in zip(('by_hand','in_one'), (i%2, 1-i%2))}
        a,b = (json.loads(p.communicate()[0].splitlines()[-1]) for p in ps.values())
        rows.append(dict(pair=i, by_hand=a['seconds'], in_one=b['seconds'], ratio=b['seconds']/a['seconds'], checks=b['checks'], same_weights=a['weights']==b['weights'],
                         by_hand_callbacks=a['callbacks']/a['seconds'], in_one_callbacks=b['callbacks']/b['seconds']))
        pd.DataFrame(rows).to_csv(out, index=False)
        print(rows[-1], flush=True)
    df = pd.DataFrame(rows)
    print(f"by hand {df.by_hand.median():.1f} s, fit_progressive {df.in_one.median():.1f} s, ratio: median {df.ratio.median():.4f}, {df.ratio.min():.4f} to {df.ratio.max():.4f}, same weights: {df.same_weights.all()}\n"
          f"share of the time in the callbacks: {df.by_hand_callbacks.median():.3%} by hand, {df.in_one_callbacks.median():.3%} in fit_progressive\n"
          f"checks, apart: {df.checks.median():.2f} s")
