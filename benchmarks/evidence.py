"""Progressive resizing against the final size alone, on the sample images: at equal epochs, and at equal seconds,
over several seeds.

Writes `evidence.csv`, one row per epoch with the settings, and `evidence.png`. An interrupted one is resumed;
`build/evidence` has its parts."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # threads that wait leave the cores to the workers
from dataclasses import dataclass, replace
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.apps.book import run_experiment
from fastai_progresize.apps.experiments import Experiment, at_final_size, same_seconds
from fastai_progresize.utils import whole_file
from fastai_progresize.samples import glyphs

here = Path(__file__).parent
fixed = ('single_cycle_same_epochs','single_cycle_same_seconds')
names = dict(fine_tune="fit='fine_tune'", fit_one_cycle="fit='fit_one_cycle'", single_cycle="fit='single_cycle'",
             single_cycle_same_epochs='64 px, as many epochs', single_cycle_same_seconds='64 px, as many seconds')

@dataclass(frozen=True)
class Letters(Experiment):
    "An experiment on the sample images, whose letters are turned and lit already"
    def dls(self, size, bs, path, num_workers=None, **kwargs):
        return get_dls(size, bs, path, num_workers, do_flip=False, mult=0, max_zoom=1.)

def letters(fit, epochs, sizes, bs):
    "`epochs` in all, shared out 60/40, those of a frozen body included"
    model = partial(xresnet18, widen=.25)
    stages = tuple(replace(s, fit=None) for s in Plan(epochs, sizes, bs=bs, fit=fit))
    if fit=='single_cycle':
        def same_epochs(e, df): return at_final_size(e, 'same_epochs', e.plan.n_epoch)
        return Letters(fit, '', model, stages, lr_max=8e-3, fit=fit, others=(same_epochs,same_seconds))
    return Letters(fit, '', model, stages, lr_max=(8e-3,8e-3/3), fit=fit)

def read(): return pd.read_csv(here/'evidence.csv')

def _show(o, f='.3f'): return f'{o.mean():{f}} ± {o.sem():{f}}'

def _less(a, b): return _show(a-b, '+.3f').replace('± +', '± ')

def summary(df):
    """A row per way to train: means over the seeds and their standard errors, and the difference to as many epochs and
    as many seconds at the final size, in pairs of a seed"""
    last = df.groupby(['run','seed']).agg(epochs=('epoch', lambda o: o.max()+1), accuracy=('accuracy','last'),
                                          valid_loss=('valid_loss','last'), seconds=('seconds','sum')).reset_index()
    def _by_run(k): return last.pivot(index='seed', columns='run', values=k)
    epochs,seconds,acc,loss = map(_by_run, ('epochs','seconds','accuracy','valid_loss'))
    def _row(k):
        res = {'epochs': f"{epochs[k].mean():.0f}", 'seconds': _show(seconds[k], '.0f'), 'accuracy': _show(acc[k]),
               'validation loss': _show(loss[k])}
        return res | {f'less {names[o]}': '' if k==o else _less(acc[k], acc[o]) for o in fixed}
    return pd.DataFrame({names[k]: _row(k) for k in names}).T

def plot(df):
    "Accuracy over seconds, the mean of the seeds and its standard error at the end of each epoch"
    fig,ax = plt.subplots(figsize=(7,4.5))
    df = df.assign(at=df.groupby(['run','seed']).seconds.cumsum())
    for i,k in enumerate(names):
        g = df[df.run==k].groupby('epoch')
        g = g.agg(at=('at','mean'), acc=('accuracy','mean'), se=('accuracy','sem'), n=('seed','size'))
        g = g[g.n==g.n.max()]      # the last epochs of those with as many seconds may be of some seeds only
        ax.plot(g['at'], g.acc, marker='.', color=f'C{i}', ls='--' if k in fixed else '-', label=names[k])
        ax.fill_between(g['at'], g.acc-g.se, g.acc+g.se, color=f'C{i}', alpha=.15, lw=0)
    ax.set(xlabel='seconds of training and validation', ylabel='accuracy')
    ax.legend(fontsize='small')
    return fig

@call_parse
def main(
    seeds:int=5, # Number of seeds
    epochs:int=8, # Epochs of each run, but of those with as many seconds
    sizes:str='40,64', # Sizes, px
    bs:int=32, # Batch size, images
    num_workers:int=2, # Processes that load images
    out:Path=here, # Folder for `evidence.csv` and `evidence.png`
):
    "Measure, print and save"
    path,sizes = glyphs(),[int(o) for o in sizes.split(',')]
    parts = here.parent/'build'/'evidence'/f"{epochs}-{'x'.join(map(str, sizes))}-{bs}"
    ways = [letters(fit, epochs, sizes, bs) for fit in ('single_cycle','fine_tune','fit_one_cycle')]
    for n in range(seeds):      # all ways to train with a seed, then the next
        df = pd.concat([run_experiment(o, path, n+1, num_workers=num_workers, out=parts) for o in ways])
    df = df.drop(columns=['book','book_seconds']).assign(data=path.name, model='xresnet18, widen=0.25', lr_max=8e-3,
                                                         cores=os.cpu_count(), torch=torch.__version__)
    with whole_file(Path(out)/'evidence.csv') as f: df.round(5).to_csv(f, index=False)
    plot(df).savefig(Path(out)/'evidence.png', dpi=100, bbox_inches='tight')
    print(summary(df).T.to_string())
