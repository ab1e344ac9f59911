"What the benchmarks share: runs in turn, the file of all results, their table and plot"
import json
from fastai.vision.all import *
from IPython.display import HTML

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

def _rate(what, k='book'):
    "Images per second in the rows of decoded copies"
    df = load('decoded', 'over_slices')
    return [df[df.what==what.format(size)][k].item() for size in _sizes]

_sizes = 224,128,64

def plot_speed():
    "Images per second by size: the book's loading, this package's, decoded copies, numpy's slices alone"
    fig,ax = plt.subplots(figsize=(8,3.2))
    ours = 'get_dls {0}, decoded'
    bars = {'the book': _rate(ours), 'get_dls': _rate(ours+', over get_dls {0}'),
            'decoded copies': _rate(ours, 'ours'), "numpy's slices": _rate(ours+", over numpy's slices, no worker")}
    for i,(name,rates) in enumerate(bars.items()):
        color = ('grey','C0','C1','lightgrey')[i]
        found = ax.bar(np.arange(3)+.2*i-.3, rates, .19, label=name, color=color)
        ax.bar_label(found, [f'{o:,.0f}' for o in rates], fontsize=7)
    ax.set(xticks=range(3), xticklabels=[f'{o} px' for o in _sizes], yscale='log', ylabel='images per second')
    ax.yaxis.set_major_formatter('{x:,.0f}')
    ax.legend(fontsize=8, loc='upper left', ncols=2)
    ax.set_ylim(100, 1e6)
    return fig

def _row(name, r, unit=''):
    values = [f'{o:,.0f}{unit}' if unit=='/s' else f'{o:.1f}{unit}' for o in (r.book,r.ours)]
    return {'': name, 'before': values[0], 'now': values[1], 'ratio': f'{r.ratio:.3g}',
            'range': f'{r.low:.3g} to {r.high:.3g}'}

def summary():
    "What matters of all that was measured, in eight rows"
    df = load('decoded', 'filling', 'stand_in')
    def _one(what): return df[df.what==what].iloc[0]
    rows = [_row(f'decoded copies over the book, {s} px', _one(f'get_dls {s}, decoded'), '/s') for s in _sizes]
    for s in (128,64):
        rows.append(_row(f'decoded copies over none, {s} px', _one(f'get_dls {s}, decoded, over get_dls {s}'), '/s'))
    rows.append(_row('the epoch that makes them, 64 px', _one('get_dls 64, the epoch that fills the copies'), ' s'))
    rows += [_row(f'share of time over share of pixels, {o}', _one(f'64, 128, 224 px, {o}'), ' s')
             for o in ('decoded','without copies')]
    return pd.DataFrame(rows).style.hide()

def peers():
    "Images per second of several loaders, a row for each"
    df = load('peers')
    names = (df.loader+np.where(df.loader.str.startswith(('ours','numpy')), '', ' ('+df.version+')')).unique()
    res = pd.DataFrame({f'{s} px': df[df['size']==s].rate.values for s in _sizes}, index=names)
    titles = dict(seconds='to prepare, s', disk='disk, MiB', memory='memory, MiB')
    needs = load('peers_cost').set_index('loader').loc[df.loader.unique(), list(titles)].set_index(res.index)
    return res.join(needs.rename(columns=titles)).style.format('{:,.0f}')

def folded(title, *names, digits=3):
    "The rows saved under `names`, to be unfolded"
    df = load(*names)
    columns = 'measure what book ours value ratio low high target'.split()
    if 'measure' in df: df = df.reindex(columns=[o for o in columns if o in df])
    table = df.style.hide().format(precision=digits, na_rep='').to_html()
    return HTML(f'<details><summary>{title}</summary>{table}</details>')
