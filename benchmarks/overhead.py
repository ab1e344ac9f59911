"Wall time of `fit_progressive` over the same loop written by hand, with the same `DataLoaders`; the checks before training apart"
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *

sizes,bs = (32,48),32

def setup(path):
    set_seed(42)
    dls = {s: get_dls(s, bs, path, num_workers=0) for s in sizes}
    return Learner(dls[48], xresnet18(n_out=10, widen=0.25), loss_func=CrossEntropyLossFlat(), metrics=accuracy),dls

def by_hand(path, n):
    learn,dls = setup(path)
    t = time.perf_counter()
    learn.dls = dls[32]; learn.fit_one_cycle(n, 3e-3)
    learn.dls = dls[48]; learn.fine_tune(n, 1e-3)
    return time.perf_counter()-t,learn

def in_one(path, n):
    learn,dls = setup(path)
    t = time.perf_counter()
    learn.fit_progressive((n,n), sizes, lr_max=(3e-3,1e-3), get_dls=lambda size,bs: dls[size], check=False)
    return time.perf_counter()-t,learn

def checks(path, n):
    learn,dls = setup(path)
    make = StageData(learn.dls, make_stages((n,n), sizes, bs=bs), lambda size,bs: dls[size])
    t = time.perf_counter()
    check_stages(learn, make.stages, make)
    return time.perf_counter()-t

@call_parse
def main(
    pairs:int=7, # Pairs of runs
    epochs:int=9, # Epochs at each size
    out:Path='benchmarks/overhead.csv', # File for the times of all runs
):
    "Time pairs of runs in turn, print medians and the interval of their ratio"
    path,rows = glyphs(),[]
    in_one(path, 1)
    for i in range(pairs):
        runs = dict(hand=by_hand, one=in_one)
        res = {k: runs[k](path, epochs) for k in (list(runs) if i%2==0 else list(runs)[::-1])}
        same = all(torch.equal(a, b) for a,b in zip(*(o[1].model.state_dict().values() for o in res.values())))
        rows.append(dict(pair=i, hand=res['hand'][0], one=res['one'][0], ratio=res['one'][0]/res['hand'][0], same_weights=same, checks=checks(path, epochs)))
        pd.DataFrame(rows).to_csv(out, index=False)
        print('\n', rows[-1], flush=True)
    df = pd.DataFrame(rows)
    lo,hi = np.quantile([np.median(np.random.RandomState(i).choice(df.ratio, pairs)) for i in range(2000)], [.025,.975])   # bootstrap
    print(f"\nby hand {df.hand.median():.1f} s, fit_progressive {df.one.median():.1f} s, ratio {df.ratio.median():.4f} (95% interval of the median {lo:.4f} to {hi:.4f}),"
          f" same weights in all: {df.same_weights.all()}; checks apart: {df.checks.median():.2f} s")
