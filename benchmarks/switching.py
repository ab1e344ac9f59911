"""What a change of size costs.

`switch`: seconds from the end of an epoch to the first batch of the next, where the size changes, less the same where it does not.
`memory`: the process's memory over 20 changes of size."""
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from loading import block
from photos import photos
from table import save_rows

class Between(Callback):
    "Seconds between epochs, memory at the end of each (MiB)"
    order = 100
    def before_fit(self): self.seconds,self.memory = [],[]
    def after_epoch(self):
        self.t = time.perf_counter()
        self.memory.append(int(re.search(r'VmRSS:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024)
    def before_batch(self):
        if self.training and hasattr(self, 't'): self.seconds.append(time.perf_counter()-self.t); del self.t

def few_batches(dls):
    "All items, but only two batches an epoch"
    for dl in dls.loaders: dl.n = 2*dl.bs
    return dls

def run(sizes, path, times, num_workers, n_epoch=1):
    dls = lambda size,bs: few_batches(get_dls(size, bs, path, dblock=block(times), num_workers=num_workers))
    learn = Learner(dls(64, 32), xresnet18(n_out=2, widen=.25), loss_func=CrossEntropyLossFlat(), cbs=Between)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive([Stage(s, n_epoch, fit='fit_one_cycle', lr=1e-4) for s in sizes], get_dls=dls)
    return learn.between

def switch(pairs):
    path = photos(600, 300)
    for w in (2,0):
        xs = [(np.median(run((48,), path, 10, w, n_epoch=5).seconds), np.median(run((48,64)*2+(48,), path, 10, w).seconds)) for _ in range(pairs)]
        a,b = map(np.array, zip(*xs))
        yield dict(measure='seconds of a change of size', what=f'9,000 images, {w} workers: less those of an ordinary epoch', target='at most 1', value=np.median(b-a), low=(b-a).min(), high=(b-a).max())

def memory(pairs):
    m = run((32,48,64)*7, photos(600, 300), 1, 2).memory
    yield dict(measure='memory, MiB', what='20 changes of size, after the third and the highest later', target='within 5%', book=m[3], ours=max(m[4:]))

@call_parse
def main(
    names:str='switch,memory', # Tables to measure
    pairs:int=5, # Pairs of runs
):
    "Measure, print and save"
    for o in names.split(','): save_rows(o, globals()[o](pairs))
