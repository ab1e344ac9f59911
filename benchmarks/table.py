"What the benchmarks share: runs in turn, the file of all results, their table and plot"
import json
from fastai.vision.all import *
from IPython.display import Markdown

results = Path(__file__).parent/'results.json'

def paired(a, b, n):
    "What `a` and `b` return, `n` times in turn: medians, and median and range of the ratio of `b` to `a`"
    xs,ys = np.array([(a(),b()) if i%2 else (b(),a())[::-1] for i in range(n)]).T
    rs = ys/xs
    return dict(book=np.median(xs), ours=np.median(ys), ratio=np.median(rs), low=rs.min(), high=rs.max())

def save_rows(name, rows):
    "Print `rows` as they come, and put them under `name` in the file of all results"
    res = []
    for r in rows:
        if 'ratio' not in r and 'book' in r: r['ratio'] = r['ours']/r['book']
        res.append({k: round(float(v), 5) if isinstance(v, (float,np.floating)) else v for k,v in r.items()})
        print(res[-1], flush=True)
    old = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**old, name: res}, indent=1))

def load(*names):
    "The rows saved under `names` as a table"
    res = json.loads(results.read_text())
    return pd.DataFrame([r for n in names for r in res.get(n, [])])

def _rows(name, what): return first(r for r in json.loads(results.read_text())[name] if r.get('what')==what)

def number(o): return f'{o:,.0f}' if not o or abs(o)>=10 else f'{o:.1f}'

def as_markdown(df):
    "A table of Markdown: the text of the first column left, numbers right"
    cells = df.astype(object).map(lambda o: o if isinstance(o, str) else number(o))
    rows = [list(df), ['---'] + ['---:']*(df.shape[1]-1), *cells.values.tolist()]
    return Markdown('\n'.join(f"| {' | '.join(r)} |" for r in rows))

_sizes = 224,128,64
_ours = 'get_dls {0}, decoded'

def _rate(what, k='book'):
    "Images per second in the rows of decoded copies"
    df = load('decoded', 'over_slices')
    return [df[df.what==what.format(size)][k].item() for size in _sizes]

def _bars():
    return {'the book': _rate(_ours), 'get_dls': _rate(_ours+', over get_dls {0}'),
            'decoded copies': _rate(_ours, 'ours'), "numpy's slices": _rate(_ours+", over numpy's slices, no worker")}

def plot_speed():
    "Images per second by size: the book's loading, this package's, decoded copies, numpy's slices alone"
    fig,ax = plt.subplots(figsize=(6.5,3.4))
    for i,(name,rates) in enumerate(_bars().items()):
        color = ('grey','C0','C1','darkgrey')[i]
        found = ax.bar(np.arange(3)+.2*i-.3, rates, .19, label=name, color=color)
        ax.bar_label(found, [f'{o/1000:.0f}k' if o>=10_000 else f'{o:,.0f}' for o in rates], fontsize=7)
    ax.set(xticks=range(3), xticklabels=[f'{o} px' for o in _sizes], yscale='log', ylabel='images per second')
    ax.yaxis.set_major_formatter('{x:,.0f}')
    ax.legend(fontsize=8, loc='upper left', ncols=2)
    ax.set_ylim(100, 1e6)
    return fig

def _times(r, digits=0): return f"{r['ratio']:.{digits}f} ({r['low']:.{digits}f} to {r['high']:.{digits}f})"

def rates():
    "Images per second, and how many times as fast decoded copies are as the book: a row for each size"
    bars,decoded = _bars(),[_rows('decoded', _ours.format(o)) for o in _sizes]
    df = pd.DataFrame({k: bars[k] for k in ('the book','get_dls','decoded copies')})
    df.insert(0, 'images per second', [f'{o} px' for o in _sizes])
    return as_markdown(df.assign(**{'times the book': [_times(r) for r in decoded]}))

def peers():
    "Images per second of several loaders, a row for each"
    df = load('peers')
    names = (df.loader+np.where(df.loader.str.startswith(('ours','numpy')), '', ' ('+df.version+')')).unique()
    res = pd.DataFrame({'images per second': names})
    for s in _sizes: res[f'{s} px'] = df[df['size']==s].rate.values
    titles = dict(seconds='to prepare, s', disk='disk, MiB', memory='memory, MiB')
    needs = load('peers_cost').set_index('loader').loc[df.loader.unique(), list(titles)]
    for k,v in titles.items(): res[v] = needs[k].values
    return as_markdown(res)

def sharpness():
    "Sharpness over the book's, a row for each way to load"
    df = load('sharpness', 'decoded_sharpness')
    df['valid'] = df.measure.str.endswith('valid')
    df['what'] = df.what.str.replace(r'(\d+)(, decoded|, cache)?$', r'\1 px\2', regex=True)
    df = df.pivot(index='what', columns='valid', values='ratio').loc[df.what.unique()]
    df.columns = 'training','validation'
    df = df.map('{:.2f}'.format).reset_index(names="sharpness over the book's")
    return as_markdown(df)

more = (('batches', 'get_dls {}', 'batches of {} px, flips and warps on the CPU: images/s', (224,128,64)),
        ('at_size', 'at_size {} of a DataBlock at 224', 'the same, `at_size({})` of a DataBlock at 224 px', (128,)),
        ('large', '12 megapixels at {}', 'photographs of 12 megapixels to {} px: images/s', (128,)),
        ('large', '12 megapixels at {}, cache', 'the same from small JPEGs', (128,)),
        ('whole', 'xresnet18, 4 epochs at 64, fine_tune(2) at {}', 'a run at 64 and {} px on a CPU: s', (128,)))

def more_figures():
    "What else was measured against the book's loading"
    rows = [(text.format(s), _rows(name, what.format(s))) for name,what,text,sizes in more for s in sizes]
    rows = [{'measured': text, 'the book': r['book'], 'here': r['ours'], 'ratio': _times(r, 1 if r['ratio']>1 else 2)}
            for text,r in rows]
    return as_markdown(pd.DataFrame(rows))
