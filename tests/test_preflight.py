"Every size is tried before training, and nothing of it stays"
import pytest
from helpers import *

def learner(path, groups=1, num_workers=0, **kwargs):
    set_seed(3)
    return small_learner(get_dls(48, 8, path, num_workers=num_workers), groups, lr=3e-3, **kwargs)

@pytest.mark.parametrize('fit,groups,frozen,workers', (('single_cycle',1,False,0),('fine_tune',2,True,0),('fine_tune',2,False,2)))
def test_neutral(path, fit, groups, frozen, workers):
    "A run that was tried before ends with the same bits"
    res = []
    for preflight in (False,True):
        learn = learner(path, groups, workers, frozen=frozen, cbs=[MixUp(),GradientClip()])
        run(learn, fit, preflight=preflight)
        res.append((weights(learn), learn.stage_history.drop(columns=['seconds','images/s'])))
    assert same_weights(res[0][0], res[1][0])
    pd.testing.assert_frame_equal(res[0][1], res[1][1])

def test_nothing_changes(path):
    "Weights, buffers, gradients, optimizer, modes and random state of a Learner that has trained"
    learn = learner(path, 2, frozen=True)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model[0][0].eval()
    learn.model[1][2].bias.grad = torch.ones(10)
    before,opt = weights(learn),deepcopy(learn.opt.state_dict())
    def state(): return ([None if p.grad is None else p.grad.tolist() for p in learn.model.parameters()], [p.requires_grad for p in learn.model.parameters()], [m.training for m in learn.model.modules()],
                         random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), [o.rng.getstate() for o in learn.dls.loaders], id(learn.dls), learn.opt.frozen_idx, len(learn.cbs))
    s = state()
    res = learn.preflight(4, (32,48), seconds=.05)
    assert same_weights(before, weights(learn)) and state()==s and None in s[0]
    for a,b in zip(learn.opt.state_dict()['state'], opt['state']): assert a.keys()==b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)
    assert list(res.df['size'])==[32,48] and (res.df[['model','loading','epoch','memory']]>0).all().all() and set(res.df.bound)<={'model','loading'}
    assert res.seconds==res.df.stage.sum() and 'less than at 48 px throughout' in repr(res) and '<table' in res._repr_html_()

class Most(nn.Module):
    "Wants more memory than there is above a number of pixels"
    def __init__(self, most): super().__init__(); self.most,self.lin = most,nn.Linear(3, 10)
    def forward(self, x):
        if x.shape[0]*x.shape[2]*x.shape[3]>self.most: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return self.lin(x.mean((2,3)))

def most_learner(path, n): return Learner(get_dls(48, 16, path, num_workers=0), Most(n*48*48), loss_func=CrossEntropyLossFlat(), lr=1e-3)

def test_out_of_memory(path):
    learn = most_learner(path, 5)
    before = weights(learn)
    with pytest.raises(ValueError) as e: run(learn, preflight=True)
    assert str(e.value)=="bs=16 at 48 px does not fit in memory (CUDA out of memory. Tried to allocate 2.00 GiB), bs=4 does: pass bs=4 for this size, or bs='auto'"
    assert same_weights(before, weights(learn)) and not hasattr(learn, 'stage_history')
    with pytest.raises(ValueError, match='Not even one image of 48 px fits in memory .* smaller `sizes`'): run(most_learner(path, .9), preflight=True)

@pytest.mark.parametrize('accumulate', (False,True))
def test_auto(path, accumulate):
    "The bs of a stage is lowered, its steps are of as many images if that is wanted"
    learn = most_learner(path, 5)
    steps = Counter()
    class Steps(Callback):
        order = 100
        def before_step(self): steps[self.size_of()] += 1
        def size_of(self): return self.x.shape[-1]
    run(learn, bs='auto', accumulate=accumulate, cbs=Steps())
    assert learn.stage_history.groupby('size').bs.first().to_dict()=={24:16, 32:8, 48:4}
    assert steps==({24:1, 32:4, 48:2} if accumulate else {24:1, 32:9, 48:12})        # of 24 images, with freeze epochs 1, 3 and 2 epochs
    assert len(learn.stage_history)==6

def test_another_error(path):
    "An error of another kind is not taken for a lack of memory"
    learn = most_learner(path, 100)
    learn.loss_func = lambda *args: 1/0
    with pytest.raises(ZeroDivisionError): learn.preflight(3, (32,48), check=False)

def test_of_stages(path):
    "With the arguments of `fit_progressive`"
    learn = learner(path)
    res = learn.preflight([Stage(32, 1, bs=12),Stage((24,40), 2, fit='fit_one_cycle')], seconds=.05)
    assert list(res.df.bs)==[12,8] and list(res.df.epochs)==[1,2]
    with pytest.raises(ValueError, match='do not grow'): learn.preflight(4, (48,32))
    assert len(learn.preflight(2, 48, seconds=.05).df)==1
