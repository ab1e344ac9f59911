"What the tests share: small models, and a record of what a training did at each batch"
from fastai.vision.all import *
from fastai_progresize.all import *

class Record(Callback):
    "lr and mom of each parameter group, and the shape of the images, at each training batch"
    order,run_valid = 100,False
    def before_fit(self):
        if not hasattr(self, 'hypers'): self.hypers,self.shapes = [],[]
    def before_step(self):
        self.hypers.append([(h['lr'],h['mom'],h['wd']) for h in self.opt.hypers])
        self.shapes.append(tuple(self.x.shape))

def small_model(n_out=10):
    body = nn.Sequential(ConvLayer(3, 8, stride=2), ConvLayer(8, 16, stride=2))
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_out)))

def body_head(m): return L(m[0], m[1]).map(params)

def small_learner(dls, groups=1, frozen=False, **kwargs):
    kwargs = {'metrics':accuracy, 'loss_func':CrossEntropyLossFlat(), **kwargs}
    learn = Learner(dls, small_model(), splitter=body_head if groups>1 else trainable_params, **kwargs)
    if frozen: learn.freeze()
    return learn

def weights(learn): return {k: v.detach().clone() for k,v in learn.model.state_dict().items()}
def same_weights(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def new_learner(path, groups, cbs=(), folder=None, num_workers=0, **kwargs):
    set_seed(3)
    learn = small_learner(get_dls(48, 8, path, num_workers=num_workers), groups, cbs=list(cbs), lr=3e-3, **kwargs)
    if folder: folder.mkdir(exist_ok=True); learn.path = folder
    return learn

def run(learn, fit='fine_tune', **kwargs):
    "Three sizes, four epochs or more"
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive([1,2,1], (24,32,48), fit=fit, **kwargs)

class StopAt(Callback):
    "Interrupt the training at one of its batches"
    order,run_valid = 10_000,False
    def __init__(self, n, error=KeyboardInterrupt): self.n,self.error,self.seen = n,error,0
    def after_batch(self):
        self.seen += 1
        if self.seen==self.n: raise self.error

__all__ = [o for o in globals() if not o.startswith(('_','test'))]   # fastai exports functions of these names
