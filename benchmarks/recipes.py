"""Which recipe of progressive resizing wins: kinds of fit, sizes, growth and shares of the epochs, each against the
same kind of fit at the final size, over paired seeds, on photographs of solar cells and on letters.

Appends a row per run to `recipes.csv` as it ends; runs that are there already are not repeated. `--timed` is for runs
with nothing beside them: only their seconds count."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # threads that wait leave the cores to the workers
from dataclasses import dataclass, replace
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.samples import glyphs, small_resnet
from fastai_progresize.schedule import fits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from drawings import drawings
from elpv import elpv
from table import as_markdown

here,final = Path(__file__).parent,128
csv = here/'recipes.csv'
letters_tfms = dict(do_flip=False, mult=0, max_zoom=1.)      # the letters are turned and lit already
cells,letters = (elpv, dict(flip_vert=True)),(partial(glyphs, 1500, 1000, scale=(.25,.45)), letters_tfms)
datasets = dict(elpv=cells, letters=letters, elpv96=cells, letters96=letters, elpv64=cells, letters64=letters,
                drawings=(drawings, {}),
                small=(partial(glyphs, 1500, 1000), letters_tfms))      # too small: 15 points lost at .57 of the size
finals = dict(elpv96=96, letters96=96, elpv64=64, letters64=64, drawings=96)     # px; the others' is 128

def _below(final): return round(.85*final/16)*16

class Average(Callback):
    "An exponential average of the weights, with which the run ends"
    def before_fit(self):
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(.99), use_buffers=True)
    def after_batch(self):
        if self.training: self.average.update_parameters(self.model)
    def after_fit(self): self.model.load_state_dict(self.average.module.state_dict())

class EstimateBN(Callback):
    "Estimate the statistics of BatchNorm again, from an epoch of training data: at the last size `first`, or in the end"
    def __init__(self, first): self.first = first
    def before_epoch(self):
        if self.first and self.epoch==self.n_epoch-round(self.n_epoch/3): self.estimate()
    def after_train(self):
        if not self.first and self.epoch==self.n_epoch-1: self.estimate()
    def estimate(self): update_bn(self.dls.train, self.model)

class ByPixels(Callback):
    "The lr follows the share of the pixels, not of the epochs"
    order = ParamScheduler.order-1
    def __init__(self, sizes): self.ends = np.cumsum([0, *np.square(sizes)])
    def before_batch(self):
        if not self.training: return
        a,b = self.ends[self.epoch:self.epoch+2]
        self.learn.progressive_schedule.pct = (a+(b-a)*self.iter/self.n_iter)/self.ends[-1]

class HeadOnly(Callback):
    "In the last epoch BatchNorm and the last layer are trained alone"
    def before_epoch(self):
        if self.epoch<self.n_epoch-1: return
        for m in self.model.modules():
            for p in m.parameters(recurse=False): p.requires_grad_(isinstance(m, (nn.BatchNorm2d,nn.Linear)))

extras = dict(
    bn=('BatchNorm estimated again before the last size', lambda sizes: EstimateBN(True)),
    bnend=('BatchNorm estimated again in the end', lambda sizes: EstimateBN(False)),
    average=('the weights averaged', lambda sizes: Average()),
    pixels=('the lr by pixels', ByPixels),
    last=('the last epoch at that size', lambda sizes: None),
    lasthead=('the last epoch at that size, of BatchNorm and the head', lambda sizes: HeadOnly()))

@dataclass(frozen=True)
class Recipe:
    "How a run trains"
    fit:str                # As `Plan` has it
    start:float=1.         # First size, relative to the final one
    growth:str='2'         # '2' or '3' sizes, 'grow' by 16 px, 'only' the first, 'below': 3, the last of .85
    share:float=.25        # Share of the epochs at the final size
    aug:float=1.           # Strength of augmentation at the first size
    extra:str=''           # One of `extras`

    def __str__(self):
        more = self.extra and f'+{self.extra}'
        if self.start==1: return f"{self.fit}-fixed{more}"
        aug = '' if self.aug==1 else f"-{self.aug:g}"
        return f"{self.fit}-{self.start:g}-{self.growth}-{self.share:g}{aug}{more}"

    @classmethod
    def named(cls, s):
        s,_,extra = s.partition('+')
        fit,start,*more = s.split('-')
        if start=='fixed': return cls(fit, extra=extra)
        return cls(fit, float(start), more[0], *map(float, more[1:]), extra=extra)

    @property
    def label(self):
        "In words"
        first = round(final*self.start/8)*8
        if self.start==1: return f"{self.fit}, only {final} px"
        if self.growth=='only': return f"{self.fit}, only {first} px, tested at {final} px"
        if self.growth=='below':
            sizes = [round(_below(final)*o/8)*8 for o in (self.start,1)]
            return f"{self.fit}, {sizes[0]} to {sizes[1]} px, tested at {final} px{self.more}"
        mid = {'2':'', '3':f' {round((first+final)/2/8)*8},', 'grow':' growing,'}[self.growth]
        aug = '' if self.aug==1 else f', augmentation from {self.aug:.0%}'
        share = '' if self.share==.33 else f', {self.share:.0%} of the epochs last'
        return f"{self.fit}, {first},{mid} {final} px{share}{aug}{self.more}"

    @property
    def more(self): return self.extra and f', {extras[self.extra][0]}'

    def sizes(self, n_epoch, final=final):
        "The size of each epoch, px"
        if self.growth=='below':
            sizes = replace(self, growth='3').sizes(n_epoch, _below(final))
            return sizes[:-1]+[final] if self.extra.startswith('last') else sizes
        if self.start==1: return [final]*n_epoch
        first,last = round(final*self.start/8)*8,max(1, round(self.share*n_epoch))
        before = n_epoch-last
        if self.growth=='only': return [first]*n_epoch
        if self.growth=='2': return [first]*before + [final]*last
        if self.growth=='3':
            n = math.ceil(before*.6)
            return [first]*n + [round((first+final)/2/8)*8]*(before-n) + [final]*last
        flat = n_epoch//2
        grown = [first + (final-first)*(i+1)/(before-flat+1) for i in range(before-flat)]
        return [first]*flat + [round(o/16)*16 for o in grown] + [final]*last

    def plan(self, n_epoch, bs, lr, final=final):
        sizes = self.sizes(n_epoch, final)
        counts = {o: sizes.count(o) for o in sorted(set(sizes))}
        def _stage(i, size, n):
            if not i or self.fit!='fine_tune': return Stage(size, n)
            frozen = min(1, n-1)
            return Stage(size, n-frozen, freeze_epochs=frozen)
        stages = [_stage(i, *o) for i,o in enumerate(counts.items())]
        lr_max = lr if fits[self.fit].is_whole else [lr if i==0 else lr/3 for i in range_of(stages)]
        below = dict(pct_start=1-self.share) if self.growth=='below' else {}
        res = Plan(stages, bs=bs, fit=self.fit, lr_max=lr_max, aug=None if self.aug==1 else (self.aug,1.), **below)
        assert res.n_epoch==n_epoch, res
        return res

def read(): return pd.read_csv(csv) if csv.exists() else pd.DataFrame()

def is_done(**key):
    df = read()
    return len(df)>0 and bool((df[list(key)]==pd.Series(key)).all(axis=1).any())

def run(data, recipe, n_epoch, seed, bs, lr, num_workers, timed):
    "One run as a row"
    (make,tfms),final = datasets[data],finals.get(data, 128)
    get = partial(get_dls, path=make(), num_workers=num_workers, cache=True, **tfms)
    set_seed(seed)
    dls = get(final, bs)
    learn = Learner(dls, small_resnet(dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    plan = recipe.plan(n_epoch, bs, lr, final)
    cbs = extras[recipe.extra][1](recipe.sizes(n_epoch, final)) if recipe.extra else None
    valid = dict(valid_size=final) if recipe.growth=='below' else {}
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(plan, get_dls=get, cbs=cbs, **valid)
    seconds = time.perf_counter()-start
    h = learn.stage_history
    with learn.no_bar(): last = dict(zip(('valid_loss','accuracy'), learn.validate(dl=dls.valid)))
    pixel_epochs = sum(s.pixels*s.total for s in plan)/final**2
    return dict(data=data, recipe=str(recipe), epochs=n_epoch, seed=seed, lr=lr, bs=bs, timed=timed,
                sizes=' '.join(f'{s.size}x{s.total}' for s in plan), pixel_epochs=round(pixel_epochs, 4),
                seconds=round(seconds, 2), accuracy=round(last['accuracy'], 5),
                valid_loss=round(last['valid_loss'], 5), train_loss=round(h.train_loss.iloc[-1], 5),
                threads=torch.get_num_threads(), num_workers=num_workers, torch=torch.__version__)

# The choice, before any run on the drawings: from 96 px on the default begins with at least 64 px
default,control,usual_lr = 'flat_cos-0.5-3-0.33','flat_cos-fixed',4e-3
default_96 = 'flat_cos-0.67-3-0.33'
def default_of(data): return default_96 if finals.get(data)==96 else default

def by_seed(df, data, epochs, measure):
    "A row per seed, a column per recipe"
    df = df[(df.data==data) & (df.epochs==epochs) & (df.lr==usual_lr) & ~df.timed]
    return df.pivot(index='seed', columns='recipe', values=measure)

def accuracies(df, data, epochs):
    "Accuracy in percent, a row per seed, a column per recipe"
    return 100*by_seed(df, data, epochs, 'accuracy')

def less(a, b):
    "Mean of the differences in pairs of a seed, its standard error, and the number of pairs"
    d = (a-b).dropna()
    return d.mean(),d.sem(),len(d)

def show(mean, se, n=None): return f'{mean:+.1f}' + ('' if se!=se else f' ± {se:.1f}')

def search(df, datas=('letters','elpv'), epochs=12):
    """A row per recipe with two seeds on a dataset: its cost, and for each dataset its accuracy, how much that is above
    the same kind of fit at the final size, and the number of seeds"""
    accs = {o: accuracies(df, o, epochs) for o in datas}
    cost = df[df.data.isin(datas) & (df.epochs==epochs)].groupby('recipe').pixel_epochs.first()/epochs
    n = pd.DataFrame({o: acc.count() for o,acc in accs.items()}).max(axis=1)
    def _cell(acc, k):
        if k not in acc: return ''
        own = f"{Recipe.named(k).fit}-fixed"
        gain = f', {show(*less(acc[k], acc[own]))}' if own in acc and own!=k else ''
        return f'{acc[k].mean():.1f}{gain} ({acc[k].count()})'
    order = accs[datas[0]].mean().sort_values(ascending=False).index
    rows = [{'recipe': Recipe.named(k).label, 'pixels': f'{cost[k]:.0%}', **{_titles[o]: _cell(accs[o], k) for o in datas}}
            for k in order if n[k]>1]
    return as_markdown(pd.DataFrame(rows))

def lengths(df, data='elpv'):
    "The default less `fit_one_cycle` at the final size, for as many epochs: a row for each number of epochs"
    rows = []
    for n in (6,12,24):
        found = pairs(df, data, controls['fit_one_cycle'], n)
        if not found: continue
        acc,loss = found
        rows.append({f'{_titles[data]}, less `fit_one_cycle`': f'{n} epochs', 'pairs': str(acc[2]),
                     'points of accuracy': show(*acc), 'validation loss': f'{loss[0]:+.3f} ± {loss[1]:.3f}'})
    return as_markdown(pd.DataFrame(rows))

def floor(df):
    "How much a first size of two thirds is above half of the final one: a row per dataset and final size"
    rows = []
    for data,final in finals.items():
        if data=='drawings': continue
        acc,recipes = accuracies(df, data, 12),(default_96,default)
        first = [f'{Recipe.named(o).sizes(12, final)[0]} px' for o in recipes]
        mean,se,n = less(*(acc[o] for o in recipes))
        rows.append({'first size': f'{_titles[data[:-2]]}, {final} px: {first[0]} instead of {first[1]}', 'pairs': str(n),
                     'points of accuracy': show(mean, se)})
    return as_markdown(pd.DataFrame(rows))

def times(df):
    "Seconds of 12 epochs, medians of the timed runs, a row per dataset"
    rows = []
    for data in _titles:
        t,plan = timed(df, data).median(),Recipe.named(default_of(data)).plan(12, 32, usual_lr, finals.get(data, 128))
        rows.append({'12 epochs': f"{_titles[data]}, {finals.get(data, 128)} px", 'default, s': t.iloc[0],
                     'final size, s': t.iloc[1], 'share of the time': f'{time_ratio(df, data):.0%}',
                     'share of the pixels': f'{plan.rel_cost:.0%}'})
    return as_markdown(pd.DataFrame(rows))

def timed(df, data):
    "Seconds of 12 epochs of the default and of the final size, with nothing beside them, a row per seed"
    df = df[(df.data==data) & df.timed & (df.epochs==12)]
    return df.pivot(index='seed', columns='recipe', values='seconds')[[default_of(data),control]]

def time_ratio(df, data):
    "Time of the default over that of the final size, for as many epochs"
    t = timed(df, data)
    return (t[default_of(data)]/t[control]).median()

controls = {'fit_one_cycle': 'single_cycle-fixed', 'fit_flat_cos': control}

def pairs(df, data, control, epochs=12, n=None, recipe=None):
    """How much `recipe`, the default if None, in `epochs` epochs is above `control` in `n`, in pairs of a seed: of the
    accuracy, in points, and of the validation loss the mean, its standard error and the number of pairs; None without
    two pairs"""
    def _of(measure):
        pair = (epochs,recipe or default_of(data)),(n or epochs,control)
        a,b = (by_seed(df, data, m, measure).get(k) for m,k in pair)
        return None if a is None or b is None else less(a, b)
    acc,loss = _of('accuracy'),_of('valid_loss')
    return None if acc is None or acc[2]<2 else ((100*acc[0],100*acc[1],acc[2]),loss)

def same_seconds(df, data, epochs=12):
    "Epochs at the final size that take as long as `epochs` of the default"
    return round(epochs*time_ratio(df, data))

def against(df, epochs=12):
    "A row per dataset and control, for as many epochs and as many seconds: how much the default is above it"
    rows = []
    for data,(label,k) in itertools.product(_titles, controls.items()):
        for what,n in {'epochs': epochs, 'seconds': same_seconds(df, data, epochs)}.items():
            found = pairs(df, data, k, epochs, n)
            if not found: continue
            acc,loss = found
            rows.append({f'the default, {epochs} epochs, less': f'{_titles[data]}: `{label}({n})`, as many {what}',
                         'pairs': str(acc[2]), 'points of accuracy': show(*acc),
                         'validation loss': f'{loss[0]:+.3f} ± {loss[1]:.3f}'})
    return as_markdown(pd.DataFrame(rows))

_titles = dict(elpv='solar cells', letters='letters', drawings='drawings')
_names = {'default': 'through growing sizes', 'single_cycle-fixed': 'fit_one_cycle at the final size',
          control: 'fit_flat_cos at the final size'}

def _plot_one(ax, df, data):
    "One dataset's accuracy over seconds"
    seconds,final = timed(df, data),finals.get(data, 128)
    pixels = df[df.data==data].groupby(['recipe','epochs']).pixel_epochs.first()
    for i,(k,label) in enumerate(_names.items()):
        k,like = (default_of(data),)*2 if k=='default' else (k,control)
        own = df[(df.data==data) & (df.recipe==k) & (df.lr==usual_lr) & ~df.timed]
        g = own.groupby('epochs').agg(acc=('accuracy','mean'), se=('accuracy','sem'), n=('accuracy','size'))
        g = g[g.n>1]
        if g.empty: continue
        x = [pixels[k,n]/pixels[like,12]*seconds[like].median() for n in g.index]
        ax.errorbar(x, 100*g.acc, 100*g.se, marker='o', capsize=3, color=f'C{i}', label=label)
    ax.set_title(f'{_titles[data]}, {final} px')

def plot(df, datas=tuple(_titles)):
    "Accuracy over seconds, each point a number of epochs: means of the seeds and their standard errors"
    n = len(datas)
    fig,axs = plt.subplots(n, 1, figsize=(6.5,.3+2.6*n), layout='constrained', squeeze=False)
    for data,ax in zip(datas, axs.flat):
        _plot_one(ax, df, data)
        ax.set_ylabel('accuracy, %')
    axs[0,0].legend()
    axs[-1,0].set_xlabel('seconds, 2 CPU cores')
    return fig

def results(df):
    "Twelve epochs of the default less `fit_one_cycle` at the final size, as a table in Markdown"
    rows,counts = [],set()
    for data,name in _titles.items():
        n,k = same_seconds(df, data),'single_cycle-fixed'
        found = [pairs(df, data, k, n=o)[0] for o in (12,n)]
        gains = [show(*o) for o in found]
        counts |= {n for *_,n in found}
        chose = 'did not choose the recipe' if data=='drawings' else 'chose the recipe'
        saved = f'{1-time_ratio(df, data):.0%}&nbsp;less'
        rows.append(f"| {name}, {finals.get(data, 128)} px ({chose}) | {saved} | {gains[0]} | {gains[1]} |")
    head = f'| 12 epochs, {min(counts)} to {max(counts)} seeds | time | accuracy, same epochs | accuracy, same seconds |'
    return '\n'.join([head, '|---|---|---|---|', *rows])

def append(row):
    "Append a line, whole: two processes may do so side by side"
    new = not csv.exists()
    line = pd.DataFrame([row]).to_csv(index=False, header=new)
    with open(csv, 'a') as f: f.write(line)

@call_parse
def main(
    recipes:str, # Names of recipes with commas between them
    data:str='elpv,letters', # Names of datasets
    seeds:str='1,2,3', # Seeds
    epochs:str='12', # Numbers of epochs
    bs:int=32, # Batch size, images
    lr:float=4e-3, # Highest lr
    num_workers:int=0, # Processes that load images
    timed:store_true=False, # Is nothing else running?
):
    "Run what is not there yet"
    for n,seed,d,name in itertools.product(epochs.split(','), seeds.split(','), data.split(','), recipes.split(',')):
        recipe = Recipe.named(name)
        key = dict(data=d, recipe=str(recipe), epochs=int(n), seed=int(seed), lr=lr, bs=bs, timed=timed)
        if is_done(**key): continue
        row = run(d, recipe, int(n), int(seed), bs, lr, num_workers, timed)
        append(row)
        print({k: row[k] for k in ('data','recipe','epochs','seed','lr','seconds','accuracy','valid_loss')}, flush=True)
