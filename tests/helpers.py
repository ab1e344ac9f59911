"What the tests share: small models, and a record of what a training did at each batch"
import runpy, subprocess, sys
from unittest.mock import patch as replaced
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.args import hw, short_size
from fastai_progresize.utils import same_random
from fastai_progresize.data import tfms_size
from fastai_progresize.preflight import check_run
from fastai_progresize.run import Run
from fastai_progresize.samples import glyphs

class Record(Callback):
    "lr, momentum and wd of each parameter group, and the shape of the images, at each training batch"
    order,run_valid = 100,False
    def before_fit(self):
        if not hasattr(self, 'hypers'): self.hypers,self.shapes = [],[]
    def before_step(self):
        self.hypers.append([(h['lr'],h['mom'],h['wd']) for h in self.opt.hypers])
        self.shapes.append(tuple(self.x.shape))

def small_model(n_out=10):
    body = nn.Sequential(ConvLayer(3, 8, stride=2), ConvLayer(8, 16, stride=2))
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_out)))

def plain_model(n_out=10):
    "Without BatchNorm: a batch of two processes trains it as their joint batch does"
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, n_out)))

def body_head(m): return L(m[0], m[1]).map(params)

def small_learner(dls, groups=1, frozen=False, model=small_model, **kwargs):
    kwargs = {'metrics':accuracy, 'loss_func':CrossEntropyLossFlat(), **kwargs}
    learn = Learner(dls, model(), splitter=body_head if groups>1 else trainable_params, **kwargs)
    if frozen: learn.freeze()
    return learn

def weights(learn):
    return {k: v.detach().cpu().clone() for k,v in learn.model.state_dict().items() if isinstance(v, Tensor)}
def same_weights(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def new_learner(path, groups, cbs=(), folder=None, num_workers=0, **kwargs):
    set_seed(3)
    learn = small_learner(get_dls(48, 8, path, num_workers=num_workers), groups, cbs=list(cbs), lr=3e-3, **kwargs)
    if folder:
        folder.mkdir(exist_ok=True)
        learn.path = folder
    return learn

three_sizes = dict(n_epoch=[1,2,1], sizes=(24,32,48))

def run(learn, fit='fine_tune', **kwargs):
    "Three sizes, four epochs or more"
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**three_sizes, fit=fit, **kwargs)

class StopAt(Callback):
    "Interrupt the training at one of its batches"
    order,run_valid = 10_000,False
    def __init__(self, n, error=KeyboardInterrupt): self.n,self.error,self.tick = n,error,itertools.count(1).__next__
    def after_batch(self):
        if self.tick()==self.n: raise self.error      # a count that no checkpoint keeps

bin_dir = Path(sys.executable).parent

def in_shell(name, *args, cwd, **env):
    "Run a command as a shell does"
    return subprocess.run([bin_dir/name, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **env})

def in_process(name, *args):
    "Run a command's script in this process: its exit code and its message"
    with replaced.object(sys, 'argv', [str(bin_dir/name), *map(str, args)]):
        try: runpy.run_path(str(bin_dir/name), run_name='__main__')
        except SystemExit as e: return (1,e.code) if isinstance(e.code, str) else (e.code or 0,'')
    return 0,''

def in_python(code, cwd, *args):
    "What `code` prints in a new process"
    r = subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, capture_output=True, text=True,
                       env={**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONWARNINGS':'ignore'})
    assert r.returncode==0, r.stderr[-3000:]
    return r.stdout

__all__ = [o for o in globals() if not o.startswith(('_','test'))]   # fastai exports functions of these names
