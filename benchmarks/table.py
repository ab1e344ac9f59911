"What the benchmarks share: runs in turn, the file of all results, their table and plot"
import json
from fastai.vision.all import *

results = Path(__file__).parent/'results.json'

def paired(a, b, n):
    "What `a` and `b` return, `n` times in turn: medians, and median and range of the ratio of `b` to `a`"
    xs,ys = np.array([(a(),b()) if i%2 else (b(),a())[::-1] for i in range(n)]).T
    rs = ys/xs
    return dict(book=np.median(xs), ours=np.median(ys), ratio=np.median(rs), low=rs.min(), high=rs.max())

def save_rows(name, rows):
    "Print `rows` as they come, and put them under `name` in the file of all results; plot those that are there"
    res = []
    for r in rows:
        if 'ratio' not in r and 'book' in r: r['ratio'] = r['ours']/r['book']
        res.append({k: round(float(v), 5) if isinstance(v, (float,np.floating)) else v for k,v in r.items()})
        print(res[-1], flush=True)
    old = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**old, name: res}, indent=1))
    plot_speed().savefig(results.with_suffix('.png'), dpi=100, bbox_inches='tight')

def load(*names):
    "The rows saved under `names` as a table"
    res = json.loads(results.read_text())
    return pd.DataFrame([r for n in names for r in res.get(n, [])])

def plot_speed():
    "How many times as fast as the book, with the range of the pairs, and what was aimed at"
    df = load('batches','at_size','items','large')
    fig,ax = plt.subplots(figsize=(8, .45*len(df)+.8))
    for i,r in enumerate(df.itertuples()):
        color = 'tab:blue' if 'batches' in r.measure else 'tab:orange'
        ax.barh(i, r.ratio, color=color, xerr=[[r.ratio-r.low],[r.high-r.ratio]])
        ax.plot([r.target]*2, [i-.4,i+.4], 'k', lw=2)
    names = [f"{r.what} ({r.measure.split(', ')[1]})" for r in df.itertuples()]
    ax.set(yticks=range(len(df)), yticklabels=names, xscale='log')
    ax.set_xlabel("images per second, over the book's (black: aimed at)")
    ax.set_xlim(1)
    ax.xaxis.set_major_formatter('{x:g}')
    ax.invert_yaxis()
    return fig
