"""What a change of size costs.

`switch`: seconds from the end of an epoch to the first batch of the next, where the size changes, less the same
where it does not.
`memory`: the process's memory over 20 changes of size."""
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from loading import block, fresh_cache
from photos import photos
from table import save_rows

def _memory(): return int(re.search(r'VmRSS:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

class Between(Callback):
    "Seconds between epochs, memory at the end of each (MiB)"
    order = 100
    def before_fit(self): self.seconds,self.memory,self.t = [],[],None
    def after_epoch(self):
        self.t = time.perf_counter()
        self.memory.append(_memory())
    def before_batch(self):
        if not self.training or self.t is None: return
        self.seconds.append(time.perf_counter()-self.t)
        self.t = None

def few_batches(size, bs, **kwargs):
    "All items, but only two batches per epoch"
    dls = get_dls(size, bs, **kwargs)
    for dl in dls.loaders: dl.n = 2*dl.bs
    return dls

def run(sizes, path, times, num_workers, n_epoch=1, **kwargs):
    dls = partial(few_batches, path=path, dblock=block(times), num_workers=num_workers, **kwargs)
    learn = Learner(dls(64, 32), xresnet18(n_out=2, widen=.25), loss_func=CrossEntropyLossFlat(), cbs=Between)
    plan = Plan([Stage(s, n_epoch, fit='fit_one_cycle', lr=1e-4) for s in sizes])
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(plan, get_dls=dls)
    return learn.between

def switch(pairs):
    few,many = (photos(600, 300),10),(photos(8000, 1000),1)
    decoded = dict(cache=fresh_cache(), decoded=True)
    for (path,times),w,kw in ((few,2,{}),(few,0,{}),(many,2,decoded)):
        same,other = [],[]
        for _ in range(pairs):
            same.append(np.median(run((48,), path, times, w, n_epoch=5, **kw).seconds))
            other.append(np.median(run((48,64)*2+(48,), path, times, w, **kw).seconds))
        diff = np.array(other)-np.array(same)
        yield dict(measure='seconds of a change of size', target='at most 1',
                   what=f"9,000 images, {w} workers{', decoded' if kw else ''}: less those of an ordinary epoch",
                   value=np.median(diff), low=diff.min(), high=diff.max())

def memory(pairs):
    m = run((32,48,64)*7, photos(600, 300), 1, 2).memory
    yield dict(measure='memory, MiB', what='20 changes of size, after the third and the highest later',
               target='within 5%', book=m[3], ours=max(m[4:]))

@call_parse
def main(
    names:str='switch,memory', # Tables to measure
    pairs:int=5, # Pairs of runs
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
