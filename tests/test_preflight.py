"Every size is tried before training, and nothing of it stays"
import pytest
from helpers import *
from fastai_progresize.preflight import largest_bs
from fastai_progresize.checks import trial
from fastai_progresize.checks.trial import Timing, try_step
from test_checkpoint import same_state

def learner(path, groups=1, num_workers=0, **kwargs):
    set_seed(3)
    return small_learner(get_dls(48, 8, path, num_workers=num_workers), groups, lr=3e-3, **kwargs)

@pytest.mark.parametrize('fit,groups,frozen,workers', [('single_cycle',1,False,0), ('fine_tune',2,True,0),
                                                      ('fine_tune',2,False,2)])
@pytest.mark.every(2)
def test_neutral(path, fit, groups, frozen, workers):
    "A run that was tried before ends with the same bits"
    res = []
    for preflight in (False,True):
        learn = learner(path, groups, workers, frozen=frozen, cbs=[MixUp(),GradientClip()])
        if preflight: learn.preflight(**three_sizes, fit=fit, seconds=.05)
        run(learn, fit)
        res.append((weights(learn), learn.stage_history.drop(columns=['seconds','loading','images/s'])))
    assert same_weights(res[0][0], res[1][0])
    pd.testing.assert_frame_equal(res[0][1], res[1][1])

def test_nothing_changes(path):
    "Weights, buffers, gradients, optimizer, modes and random state of a Learner that has trained"
    learn = learner(path, 2, frozen=True)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.model[0][0].eval()
    learn.model[1][2].bias.grad = torch.ones_like(learn.model[1][2].bias)
    before,opt = weights(learn),deepcopy(learn.opt.state_dict())
    def state():
        params = list(learn.model.parameters())
        return ([None if p.grad is None else p.grad.tolist() for p in params], [p.requires_grad for p in params],
                [m.training for m in learn.model.modules()], random.getstate(), np.random.get_state()[1].tolist(),
                torch.get_rng_state().tolist(), [o.rng.getstate() for o in learn.dls.loaders], id(learn.dls),
                learn.opt.frozen_idx, len(learn.cbs))
    s = state()
    res = learn.preflight(4, (32,48), seconds=.05)
    assert same_weights(before, weights(learn)) and state()==s and None in s[0]
    for a,b in zip(learn.opt.state_dict()['state'], opt['state']): assert same_state(a, b)
    assert list(res.df['size'])==[32,48] and (res.df[['model','loading','epoch','memory']]>0).all().all()
    assert set(res.df.bound)<={'model','loading'}
    assert res.seconds==res.df.stage.sum()+res.checking and res.checking>0
    assert 'than at 48 px alone' in repr(res) and '<table' in res._repr_html_()

class Most(nn.Module):
    "Wants more memory than there is above a number of pixels"
    def __init__(self, most):
        super().__init__()
        self.most,self.lin = most,nn.Linear(3, 10)
    def forward(self, x):
        if x.shape[0]*x.shape[2]*x.shape[3]>self.most:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return self.lin(x.mean((2,3)))

def most_learner(path, n):
    dls = get_dls(48, 16, path, num_workers=0)
    return Learner(dls, Most(n*48*48), loss_func=CrossEntropyLossFlat(), lr=1e-3)

def test_out_of_memory(path):
    learn = most_learner(path, 5)
    before = weights(learn)
    with pytest.raises(ValueError) as e: learn.preflight(**three_sizes)
    assert str(e.value)==("bs=16 at 48 px does not fit in memory (CUDA out of memory. Tried to allocate 2.00 GiB), bs=4"
                          " does: pass bs=4 for this size, or bs='auto'")
    assert same_weights(before, weights(learn)) and learn.stage_history.empty
    with pytest.raises(ValueError, match='Not even one image of 48 px fits in memory .* smaller `sizes`'):
        most_learner(path, .9).preflight(**three_sizes)

def test_largest_first(path):
    "What needs most memory is tried with one training step, as it is before training on a GPU"
    learn = most_learner(path, 5)
    r = Run(learn, **three_sizes)
    before = weights(learn)
    stage,_,error = largest_bs(r, r.plan[-1], attempt=try_step)
    assert stage.bs==4 and 'out of memory' in error
    assert largest_bs(r, r.plan[0], attempt=try_step)[0].bs==16
    assert same_weights(before, weights(learn))

def test_auto(path):
    "The bs of a stage is lowered, and its steps are of as many images as before"
    learn = most_learner(path, 5)
    steps = Counter()
    class Steps(Callback):
        order = 100
        def before_step(self): steps[self.x.shape[-1]] += 1
    run(learn, bs='auto', cbs=Steps())
    assert learn.stage_history.groupby('size').bs.first().to_dict()=={24:16, 32:8, 48:4}
    assert steps=={24:1, 32:4, 48:2}        # of 24 images, with freeze epochs 1, 3 and 2 epochs
    assert len(learn.stage_history)==6

def test_plan_that_fits(path):
    "The plan of a preflight trains as bs='auto' does, without trying again"
    plan = most_learner(path, 5).preflight(**three_sizes, bs='auto', seconds=.05).plan
    assert [s.bs for s in plan]==[16,8,4] and [s.n_acc for s in plan]==[None,16,16]
    res = []
    for args in (dict(n_epoch=plan), dict(three_sizes, bs='auto')):
        set_seed(1)
        learn = most_learner(path, 5)
        with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**args)
        res.append(weights(learn))
    assert same_weights(*res)

few = "too few to train from scratch: below about 500, fine-tune a pretrained model"

def steps_lines(learn, *args, **kwargs):
    "What `preflight`, and the display of a run whose data are made, say of the number of steps"
    res = learn.preflight(*args, seconds=.01, **kwargs)
    r = Run(learn, *args, **kwargs)
    assert not any('in all' in o for o in r._lines())       # not known yet
    for s in r.plan: r.try_dls(s)
    lines = [[o for o in x._lines() if ' in all' in o] for x in (res,r)]
    assert lines[0]==lines[1] and len(lines[0])==1 and lines[0][0] in repr(res)
    return lines[0][0]

def test_steps(path):
    "Three batches per epoch; said to be few where someone could fine-tune instead"
    learn = learner(path)
    assert steps_lines(learn, (2,1), (32,48))=='9 steps in all'             # a toy
    assert few in steps_lines(learn, (1,1), (32,96)) and 'resnet18).fine_tune(4)' in steps_lines(learn, 1, 96)
    assert steps_lines(learn, 200, [96])=='600 steps in all'
    learn.pretrained = True
    assert steps_lines(learn, 1, 96)=='3 steps in all'
    assert steps_lines(learner(path, 2, frozen=True), 1, 96)=='6 steps in all'

def test_steps_are_of_as_many_images(path):
    "Where gradients are accumulated, a step is several batches"
    plan = most_learner(path, 5).preflight(**three_sizes, bs='auto', seconds=.05)
    assert plan.steps==['5 steps in all']

def test_steps_of_a_run(path, capsys):
    "Before training, with or without `preflight`; not where the display is off"
    learn = learner(path)
    with learn.no_bar(): learn.fit_progressive(1, 96)
    assert f'3 steps in all, {few}' in capsys.readouterr().out
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(1, 96)
    assert few not in capsys.readouterr().out

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
    assert len(learn.preflight(2, [48], seconds=.05).df)==1

# as many epochs as the time allows

def made_up(monkeypatch, seconds):
    "Every epoch takes `seconds` by size"
    from fastai_progresize import preflight
    def _try(trial, dls, **kwargs):
        sec = seconds[tfms_size(dls.train)[0]]
        return Timing(model=sec, loading=0., memory=1.)
    monkeypatch.setattr(preflight, 'try_stage', _try)

@pytest.mark.parametrize('minutes', (.5,1,7.3))
def test_minutes(path, monkeypatch, minutes):
    "The plan is the longest that fits, and one epoch more does not"
    learn = learner(path)
    made_up(monkeypatch, {32:2., 48:5.})
    res = learn.preflight(minutes=minutes, sizes=(32,48), check=False)
    assert res.seconds==res.df.stage.sum()<=60*minutes
    n = res.plan.n_epoch
    assert res.plan==Plan(n, (32,48)).for_learner(learn)
    longer = Plan(n+1, (32,48)).for_learner(learn)
    assert sum({32:2., 48:5.}[s.size]*s.total for s in longer)>60*minutes

def test_minutes_default_sizes(path, monkeypatch):
    "Few epochs have fewer sizes"
    learn = learner(path)
    seconds = {s: s/24. for s in range(1, 49)}
    made_up(monkeypatch, seconds)
    for minutes in (.05,.1,.2,1):
        plan = learn.preflight(minutes=minutes, check=False).plan
        assert plan==Plan(plan.n_epoch).for_learner(learn)

def test_minutes_trains(path):
    "The plan goes into `fit_progressive`; what is checked counts"
    learn = learner(path)
    res = learn.preflight(minutes=.05, sizes=(32,48), seconds=.05)
    assert res.df.stage.sum()<res.seconds<=3
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(res.plan)
    assert len(learn.stage_history)==res.plan.n_epoch

@pytest.mark.parametrize('args,says', [
    (dict(), 'n_epoch=None, minutes=None: pass either the epochs or the `minutes`'),
    (dict(n_epoch=3, minutes=2), 'n_epoch=3, minutes=2: pass either the epochs or'),
    (dict(minutes=-1), 'minutes=-1: pass a positive, finite number'),
    (dict(minutes='a'), "minutes='a': pass a positive"),
    (dict(minutes=1e-4, seconds=.05), 'the shortest run, of 1 epochs, takes 0.0'),
], ids=str)
def test_bad_minutes(path, args, says):
    with pytest.raises(ValueError, match=re.escape(says)): learner(path).preflight(**args)

def _times(model, loading):
    "The model's seconds, and what loading takes beside it"
    return Timing(model=model, loading=max(0., loading-model), memory=1.)

def test_adds_up(path):
    "An epoch is what its columns say, and is shown with its spread"
    res = learner(path).preflight(4, (32,48), seconds=.05)
    df = res.df
    assert np.allclose(df.epoch, df.model+df.loading+df.valid+df.start) and (df.spread>=0).all()
    assert res.seconds>=(df.epoch*df.epochs).sum()
    assert f'{df.epoch[0]:.1f} ± {df.spread[0]:.1f}' in repr(res) and 'waiting for data (s)' in repr(res)

def test_estimate():
    "All batches at the pace of the last, and the longer wait for the first; no spread where all were timed"
    assert trial._estimate([(3.,9.), (1.,2.), (1.,2.)], 3, 1)==(3., 6., 2., 0.)
    *seconds,spread = trial._estimate([(5.,9.), (0.,1.), (0.,3.)], 100, 1)
    assert seconds==[0., 200., 5.] and spread==pytest.approx(100*(1/2-1/100)**.5)
    assert trial._estimate([(4.,1.)], 10, 2)==(40., 10., 0., 0.) and trial._estimate([], 3, 1)==(0.,)*4

def test_lighter_stem_only_where_it_is_clear():
    "65% of the time for 56% of the pixels is no reason, nor is what the measurement cannot tell"
    def _says(small): return Preflight(Plan((4,2), (48,64), bs=32, fit='single_cycle'), [small,_times(4., 2.)]).warnings
    assert _says(_times(2.6, 1.))==[]
    assert 'try a lighter stem' in _says(_times(3.1, 1.))[0]
    assert _says(Timing(model=3.1, loading=0., memory=1., spread=.3))==[]

def test_not_worth_it():
    "Where an epoch at a smaller size takes most of one at the last, it says why; where it follows the pixels, nothing"
    def _says(small): return Preflight(Plan((4,2), (32,64), bs=32, fit='single_cycle'), [small,_times(4., 2.)])
    assert _says(_times(1.1, 1.)).warnings==[]
    loading = _says(_times(1.1, 3.9))
    assert loading.warnings==["An epoch at 32 px takes 98% of one at 64 px, for 25% of its pixels; loading is the"
                              " bottleneck: try `cache=True`, or more workers",
                              'Progressive resizing is not worth it here']
    assert 'the model\'s time does not scale with the pixels' in _says(_times(2.6, 1.)).warnings[0]
    assert len(_says(_times(2.6, 1.)).warnings)==1
    assert '<code>cache=True</code>' in loading._repr_html_() and 'not worth it here' in repr(loading)
    near = Preflight(Plan((4,2), (56,64), bs=32, fit='single_cycle'), [_times(3.1, 2.),_times(4., 2.)])
    assert near.warnings==[]          # .77 of the pixels
    assert '20% more than at 64 px' in repr(_says(_times(5.2, 1.)))
