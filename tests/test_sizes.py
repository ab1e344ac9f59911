"One model at several sizes; augmentation that grows"
import pytest
from copy import deepcopy
from types import SimpleNamespace
from fastai.callback.mixup import CutMix, MixUp
from helpers import *
from test_bad_input import refused

@pytest.fixture
def learn(path):
    set_seed(2)
    learn = small_learner(get_dls(48, 8, path, num_workers=0), lr=3e-3, metrics=[accuracy,error_rate])
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    return learn

def quiet(learn, *args, **kwargs):
    with learn.no_bar(): return learn.validate_sizes(*args, show_plot=False, **kwargs)

# validate_sizes

def test_by_hand(learn):
    "Loss and metrics are those of `validate` on the dls at that size"
    df = quiet(learn, [24,48,(32,64)])
    assert list(df.columns)==['valid_loss','accuracy','error_rate','best'] and list(df.index)==[24,48,(32,64)]
    for s in df.index:
        with learn.no_bar(): vals = learn.validate(dl=learn.dls.at_size(s).fast().valid)
        assert list(df.loc[[s]].iloc[0,:3])==list(vals)
    best = {k: df[k].to_numpy() for k in df.columns[:3]}
    assert 'valid_loss' in df.best.iloc[best['valid_loss'].argmin()]
    assert 'accuracy' in df.best.iloc[best['accuracy'].argmax()]
    assert 'error_rate' in df.best.iloc[best['error_rate'].argmin()]
    assert sum(o.split(', ').count('accuracy') for o in df.best)==1

@pytest.mark.parametrize('recalibrate', (False,True))
def test_learner_stays(learn, recalibrate):
    "Weights, statistics, modes, random state, the recorder's values and the dls"
    def _state():
        r = learn.recorder
        return (list(r.lrs), list(r.losses), [list(o) for o in r.values], list(r.metric_names), id(learn.dls),
                [m.training for m in learn.model.modules()], random.getstate(), torch.get_rng_state().tolist())
    before,w = _state(),weights(learn)
    quiet(learn, [24,48], recalibrate=recalibrate)
    assert _state()==before and same_weights(weights(learn), w)

def test_recalibrate(learn):
    "BatchNorm's statistics are the mean of those of the batches"
    a,b = quiet(learn, [24]),quiet(learn, [24], recalibrate=True, n_batch=2)
    assert a.valid_loss.iloc[0]!=b.valid_loss.iloc[0]
    set_seed(5)
    dls = learn.dls.at_size(24).fast()
    model = deepcopy(learn.model).train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.reset_running_stats(); m.momentum = None
    with torch.no_grad():
        for (x,_),_ in zip(dls.train, range(2)): model(x)
    learn.model = model
    with learn.no_bar(): want = learn.validate(dl=dls.valid)
    set_seed(5)
    got = quiet(learn, [24], recalibrate=True, n_batch=2)
    assert got.valid_loss.iloc[0]==pytest.approx(want[0], rel=.2)

def test_plot(learn):
    with learn.no_bar(): learn.validate_sizes([24,48])
    axs = plt.gcf().axes
    assert [o.get_ylabel() for o in axs]==['valid_loss','accuracy','error_rate']
    assert all('best: ' in o.get_legend().get_texts()[0].get_text() for o in axs)
    plt.close('all')

def test_cannot_be_validated(learn):
    for sizes,says in (([0], 'size=0'), ([], 'n_epoch'), (['a'], "size='a'")):
        with refused(learn, says): learn.validate_sizes(sizes)
    learn.model = nn.Sequential(learn.model[0], nn.Flatten(), nn.Linear(16*12*12, 10))
    with refused(learn, '24 px'): learn.validate_sizes([48,24])
    with refused(learn, '24'): learn.fit_progressive(1, 48, valid_size=24)      # nor during training

# augmentation that grows

def strength(dls):
    "How far each transform goes"
    res = {}
    for t in dls.train.after_batch.fs:
        for f in [*getattr(t, 'aff_fs', []), *getattr(t, 'coord_fs', []), *getattr(t, 'fs', [])]:
            kw = f.keywords if isinstance(f, partial) else vars(f)
            if isinstance(kw.get('draw'), partial): kw = kw['draw'].keywords
            for k in ('max_deg','max_zoom','magnitude','max_lighting','min_scale'):
                if k in kw: res[k,type(f).__name__] = float(kw[k])
        if hasattr(t, 'min_scale'): res['min_scale',''] = t.min_scale
    return res

neutral = dict(max_deg=0, max_zoom=1, magnitude=0, max_lighting=0, min_scale=1)

@pytest.mark.parametrize('by', (0.,.25,.5))
def test_with_aug(path, by):
    "Each magnitude in proportion, those of the given dls stay; so does validation"
    own = dict(item_tfms=Resize(64), batch_tfms=aug_transforms(size=48, min_scale=.6), bs=8, num_workers=0)
    for dls in (get_dls(48, 8, path, num_workers=0), ImageDataLoaders.from_folder(path, valid='val', **own)):
        before = strength(dls)
        assert {k for k,_ in before}>={'max_deg','magnitude','max_lighting','min_scale'}
        new = dls.with_aug(by)
        for k,v in strength(new).items(): assert v==pytest.approx(neutral[k[0]] + by*(before[k]-neutral[k[0]])), k
        assert strength(dls)==before
        assert new.valid is dls.valid and new.one_batch()[0].shape==(8,3,48,48)
        assert dls.with_aug(1.) is dls

def test_no_aug(path):
    "At strength 0, training images are as in validation but for flips"
    dls = get_dls(48, 8, path, num_workers=0, do_flip=False, presize=48)
    img = TensorImage((torch.rand(2,3,48,48)*255).byte()).to(dls.device)
    def _run(pipe, split_idx):
        pipe.split_idx = split_idx
        return pipe(img.clone())
    a,b = _run(dls.with_aug(0.).train.after_batch, 0),_run(dls.valid.after_batch, 1)
    assert not torch.allclose(_run(dls.train.after_batch, 0).as_subclass(Tensor), b.as_subclass(Tensor), atol=1e-2)
    assert torch.allclose(a.as_subclass(Tensor), b.as_subclass(Tensor), atol=1e-2)

class Strengths(Callback):
    def before_fit(self): self.seen = []
    def after_epoch(self):
        mix = [o.distrib.concentration1.item() for o in self.learn.cbs if isinstance(o, MixHandler)]
        self.seen.append((self.dls.train.after_batch, first(mix)))

@pytest.mark.parametrize('mix', (MixUp,CutMix))
def test_grows(path, mix):
    "The plan's strengths are those of the run, MixUp's alpha too, which is given back"
    learn = small_learner(get_dls(48, 8, path, num_workers=0), lr=3e-3, cbs=[mix(.4),Strengths()])
    plan = Plan(3, (24,32,48), aug=(.5,1.))
    assert [s.aug for s in plan]==[.5,.75,1.] and list(plan.to_df().aug)==[.5,.75,1.]
    own = strength(learn.dls)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(plan)
    for (pipe,alpha),by in zip(learn.strengths.seen, (.5,.75,1.)):
        got = strength(SimpleNamespace(train=SimpleNamespace(after_batch=pipe)))
        assert alpha==pytest.approx(.4*by)
        for k,v in got.items(): assert v==pytest.approx(neutral[k[0]] + by*(own[k]-neutral[k[0]]))
    assert first(o for o in learn.cbs if isinstance(o, MixHandler)).distrib.concentration1.item()==pytest.approx(.4)
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging():
        learn.fit_progressive(plan, cbs=StopAt(2))
    assert first(o for o in learn.cbs if isinstance(o, MixHandler)).distrib.concentration1.item()==pytest.approx(.4)

def test_bad_aug(learn):
    for aug in (.5, (1.,), (-1.,1.), ('a',1.), (.5,2.), (.5,float('inf'))):
        with refused(learn, 'aug='): learn.fit_progressive(4, (24,48), aug=aug)
    with pytest.raises(ValueError, match='aug=-1'): Stage(32, 1, aug=-1)
    for by in (-1,2.):
        with pytest.raises(ValueError, match=f'aug={by}: pass a number from 0'): learn.dls.with_aug(by)

def test_off(path):
    "Without `aug` a plan has none, and nothing is touched"
    assert {s.aug for s in Plan(3, (24,32,48))}=={None} and 'aug' not in Plan(3, (24,32,48)).to_df()
