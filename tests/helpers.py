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

__all__ = [o for o in globals() if not o.startswith(('_','test'))]   # fastai exports functions of these names
