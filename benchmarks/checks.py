"""Seconds that the checks before training take: 20,000 small files by folder and by table, arrays in the cells of a
table, pixels in its columns. The second time counts: the files are in memory then."""
import sys, warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.preflight import check_run
from fastai_progresize.run import Run

def folder(n):
    d = Path(tempfile.gettempdir())/f'checks-{n}'
    if d.exists(): return d
    for c in 'ab': (d/c).mkdir(parents=True)
    a = np.random.RandomState(0).randint(0, 255, (80,100,3), dtype=np.uint8)
    Image.fromarray(a).save(d/'a'/'0.jpg')
    data = (d/'a'/'0.jpg').read_bytes()
    for i in range(n): (d/'ab'[i%2]/f'{i}.jpg').write_bytes(data)
    return d

kw = dict(bs=64, num_workers=0, valid_pct=.2, seed=1, item_tfms=Resize(64))
def by_folder(n):
    d = folder(n)
    return ImageDataLoaders.from_path_func(d, get_image_files(d), parent_label, **kw)
def by_table(n):
    d = folder(n)
    return ImageDataLoaders.from_df(pd.DataFrame([(f'{"ab"[i%2]}/{i}.jpg', i%2) for i in range(n)]), d, **kw)

def _rows(df, get_x, get_y):
    dblock = DataBlock((ImageBlock,CategoryBlock), get_x=get_x, get_y=get_y, splitter=RandomSplitter(seed=1),
                       item_tfms=Resize(64))
    return dblock.dataloaders(df, bs=64, num_workers=0)
def cells(n):
    rng = np.random.RandomState(0)
    images = [rng.randint(0, 255, (64,64,3), dtype=np.uint8) for _ in range(n)]
    return _rows(pd.DataFrame(dict(x=images, y=[0,1]*(n//2))),
                 ColReader('x'), ColReader('y'))
def columns(n):
    df = pd.DataFrame(np.random.RandomState(0).randint(0, 255, (n,784), dtype=np.uint8))
    df.insert(0, 'y', [0,1]*(n//2))
    return _rows(df, lambda r: np.stack([np.asarray(r.iloc[1:], dtype=np.uint8).reshape(28,28)]*3, 2), ColReader('y'))

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 2)
    def forward(self, x): return self.lin(x.mean((2,3)))

def seconds(make, n):
    learn = Learner(make(n), Tiny(), loss_func=CrossEntropyLossFlat())
    run = Run(learn, 3)
    for _ in range(2):
        began = time.perf_counter()
        check_run(run)
        res = time.perf_counter()-began
    return res

if __name__=='__main__':
    n = int(sys.argv[1]) if len(sys.argv)>1 else 20_000
    names = sys.argv[2].split(',') if len(sys.argv)>2 else ['by_folder','by_table','cells','columns']
    for k in names: print(f'{k}: {n} items, {seconds(globals()[k], n):.2f} s', flush=True)
