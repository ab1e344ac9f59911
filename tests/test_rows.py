"What callbacks do in a run: the history has its rows, training is as by hand, an export made in it works"
import pytest
from helpers import *

kw = dict(n_epoch=(1,2), sizes=(32,48), fit='fit_one_cycle')

def learner(images, **kwargs):
    set_seed(3)
    return small_learner(get_dls(48, 8, images, num_workers=0), lr=3e-3, **kwargs)

def trained(images, **args):
    learn = learner(images)
    learn.fit_progressive(**{**kw, **args})
    return learn

class Events(Callback):
    "Does `f` at an event, but not in what `f` does"
    def __init__(self, event, f, order=0):
        self.order,self.f,self.is_busy = order,f,False
        setattr(self, event, self.do)
    def do(self):
        if self.is_busy: return
        self.is_busy = True
        try: self.f(self)
        finally: self.is_busy = False

def cancel(e, epoch=1):
    def _cancel(self):
        if self.epoch==epoch: raise e
    return _cancel

def validate(self): self.learn.validate()
def get_preds(self): self.learn.get_preds()

def isnan(row): return {k for k,v in row.items() if v!=v}

nested = dict(validate=validate, get_preds=get_preds, on_train=lambda self: self.learn.validate(ds_idx=0))
at = [('after_epoch',0), ('after_epoch',55), ('after_train',0)]

@pytest.mark.parametrize('event,order', at)
@pytest.mark.parametrize('f', nested)
@pytest.mark.every(4)
def test_nested(path, f, event, order):
    "Validating once more inside an epoch does not change training, which is that of the loop by hand, nor the rows"
    def _by_hand(learn, *cbs):
        for size,n,lr in ((32,1,3e-3),(48,2,1e-3)):
            learn.dls = get_dls(size, 8, path, num_workers=0)
            learn.fit_one_cycle(n, lr, cbs=cbs)
        return learn
    cb = Events(event, nested[f], order)
    a = _by_hand(learner(path), cb)
    args = dict(lr_max=(3e-3,1e-3), get_dls=partial(get_dls, path=path, num_workers=0))
    b,plain = trained(path, cbs=cb, **args),trained(path, **args)
    assert same_weights(weights(a), weights(b))
    same = ['epoch','stage','size','bs','lr']
    assert b.stage_history[same].equals(plain.stage_history[same])
    loss = ['valid_loss','accuracy']
    assert list(b.stage_history.loc[0, loss])==list(plain.stage_history.loc[0, loss])
    assert list(b.stage_history.loc[2, loss])==list(b.validate())
    missing = {'train_loss'} if event=='after_train' else set()      # fastai's smooth loss starts again: there is none
    assert all(isnan(o)==missing for o in b.stage_rows)
    assert b.dls.train.bs==8 and tfms_size(b.dls.train)==(48,48)

def test_nested_fit(path):
    "A fit in a callback trains as it says, and no more"
    lrs = []
    class Lrs(Callback):
        def before_step(self): lrs.append(self.opt.hypers[-1]['lr'])
    def _fit(self):
        if not lrs: self.learn.fit(1, 1e-4, cbs=Lrs())
    learn = trained(path, cbs=Events('after_epoch', _fit))
    assert lrs==[1e-4]*3
    assert list(learn.stage_history['size'])==[32,48,48] and list(learn.stage_history.epoch)==[0,1,2]

@pytest.mark.parametrize('event,e,missing', [
    ('before_validate', CancelValidException, ['valid_loss','accuracy']),
    ('after_batch', CancelEpochException, ['train_loss','valid_loss','accuracy']),
    ('before_train', CancelEpochException, ['train_loss','valid_loss','accuracy']),
    ('before_validate', CancelEpochException, ['valid_loss','accuracy']),
    ('before_train', CancelTrainException, ['train_loss']),
    ('after_train', CancelEpochException, ['train_loss','valid_loss','accuracy']),
], ids=str)
@pytest.mark.every(2)
def test_cancelled(path, event, e, missing):
    "The row of that epoch has what was recorded, the others are whole"
    learn,plain = trained(path, cbs=Events(event, cancel(e()))),trained(path)
    a,b = learn.stage_history,plain.stage_history
    assert list(a.columns)==list(b.columns) and list(a.epoch)==[0,1,2]
    assert isnan(learn.stage_rows[1])-{'images/s'}==set(missing)
    assert not isnan(learn.stage_rows[0]) and not isnan(learn.stage_rows[2])
    assert list(a.loc[0, ['train_loss','valid_loss','accuracy']])==list(b.loc[0, ['train_loss','valid_loss','accuracy']])
    if 'train_loss' not in missing: assert a.train_loss[1]==b.train_loss[1]
    if 'valid_loss' not in missing: assert a.valid_loss[1]>0 and 0<=a.accuracy[1]<=1
    learn.plot_stages()
    compare_runs(a=a, b=b)

@pytest.mark.parametrize('recorder,columns', [
    (dict(valid_metrics=False), ['train_loss']),
    (dict(train_metrics=True), ['train_loss','train_accuracy','valid_loss','valid_accuracy']),
    (dict(train_metrics=True, valid_metrics=False), ['train_loss','accuracy']),
    (dict(add_time=False), ['train_loss','valid_loss','accuracy']),
], ids=str)
@pytest.mark.every(2)
def test_recorders(path, recorder, columns):
    "Any way in which fastai's `Recorder` records"
    own = trained(path)
    learn = learner(path, cbs=Recorder(**recorder), default_cbs=False)
    learn.add_cbs([TrainEvalCallback, CastToTensor])
    with learn.no_logging(): learn.fit_progressive(**kw)
    a,b = learn.stage_history,own.stage_history
    whole = {o for o in a.columns if a[o].notna().all()} - {'epoch','stage','size','bs','lr','seconds','loading','images/s'}
    assert whole==set(columns)
    assert list(a.train_loss)==list(b.train_loss)
    if 'valid_loss' in columns: assert list(a.valid_loss)==list(b.valid_loss)
    if 'valid_accuracy' in columns: assert list(a.valid_accuracy)==list(b.accuracy)

def test_no_recorder(path, tmp_path):
    "It trains to the same weights, also stopped and resumed, with what the history can know"
    res = []
    for stop in (None,5):
        learn = learner(path, path=tmp_path)
        learn.remove_cbs([ProgressCallback, Recorder])
        args = dict(kw, checkpoint=f'a{stop}', resume=True)
        if stop:
            with pytest.raises(KeyboardInterrupt): learn.fit_progressive(**args, cbs=StopAt(stop))
        learn.fit_progressive(**args)
        assert list(learn.stage_history['size'])==[32,48,48] and learn.stage_history.valid_loss.isna().all()
        res.append(weights(learn))
    assert same_weights(*res) and same_weights(res[0], weights(trained(path)))

# what is validated is what the learner validates

def plain_dls(path, size=48, bs=8, item=Resize(92)):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=item,
                      splitter=GrandparentSplitter(valid_name='val'),
                      batch_tfms=[*aug_transforms(size=size, min_scale=.75), Normalize.from_stats(*imagenet_stats)])
    return block.dataloaders(path, bs=bs, num_workers=0)

def items_only(path): return ImageDataLoaders.from_folder(path, valid='val', item_tfms=Resize(48), bs=8, num_workers=0)

@pytest.mark.parametrize('args', [dict(sizes=(24,48)), dict(sizes=(24,64)), dict(sizes=(24,48), bs=4), dict(sizes=[48]),
                                  dict(sizes=(24,48), valid_size='final'), dict(sizes=(24,48), fast=False),
                                  dict(sizes=(24,48), fast=dict(cache='copies', decoded=True))], ids=str)
@pytest.mark.parametrize('make', (plain_dls, items_only, lambda path: get_dls(48, 8, path, num_workers=0)))
@pytest.mark.every(4)
def test_validate_is_the_last_row(path, make, args):
    "Bit-identical, whatever loads the data of the run"
    set_seed(3)
    learn = small_learner(make(path))
    learn.fit_progressive(2, **args)
    last = learn.stage_history.iloc[-1]
    assert list(learn.validate())==[last.valid_loss, last.accuracy]

def test_own_get_dls(path):
    "As it is, also at the last size"
    learn = small_learner(plain_dls(path))
    seen = []
    def _get(size, bs):
        seen.append(plain_dls(path, size, bs))
        return seen[-1]
    learn.fit_progressive(2, (24,48), get_dls=_get)
    last = learn.stage_history.iloc[-1]
    assert list(learn.validate())==[last.valid_loss, last.accuracy] and learn.dls is seen[-1]

def test_validation_of_each_stage(path):
    "Fast before the last size, at the last the learner's own pixels"
    dls = plain_dls(path)
    learn,seen = small_learner(dls),[]
    class Keep(Callback):
        def before_validate(self): seen.append(first(self.dl)[0])
    learn.fit_progressive(2, (24,48), cbs=Keep())
    for got,want,other in ((seen[-1],dls,dls.fast()), (seen[-2],dls.at_size(24).fast(),dls.at_size(24))):
        assert torch.equal(got, first(want.valid)[0]) and not torch.equal(got, first(other.valid)[0])

def test_validate_sizes(path):
    "Its row of the learner's own size is what `validate` gives"
    learn = small_learner(plain_dls(path))
    df = learn.validate_sizes((24,48), show_plot=False)
    assert list(learn.validate())==[df.valid_loss[48], df.accuracy[48]]

# exported in a run

code = """
import sys
sys.modules['fastai_progresize'] = None       # as if it were not installed
from fastai.vision.all import *
learn = load_learner(sys.argv[1])
with learn.no_bar(): print(learn.predict(sys.argv[2])[2].tolist())
learn.dls = ImageDataLoaders.from_folder(sys.argv[3], valid='val', item_tfms=Resize(48), bs=8, num_workers=0)
with learn.no_bar(), learn.no_logging():
    learn.validate()
    learn.fit(1)
"""

class Exporter(Callback):
    "After its first epoch"
    order = 100
    def __init__(self, file): self.file,self.weights = file,None
    def after_epoch(self):
        if self.weights: return
        self.weights = weights(self.learn)
        self.learn.export(self.file)

@pytest.mark.parametrize('args', [{}, dict(fit='fine_tune'), dict(fit='fit_one_cycle', checkpoint='a'),
                                  dict(bs='auto', aug=(.5,1.), more=[MixUp])], ids=str)
def test_export_in_a_run(path, tmp_path, args):
    "It predicts as the learner did then, needs nothing of this package, and holds no data"
    args = dict(args)
    image = get_image_files(path)[0]
    set_seed(3)
    learn = small_learner(plain_dls(path), path=tmp_path)
    learn.dls.train.dataset.is_heavy = bytes(10**7)
    cb = Exporter(tmp_path/'e.pkl')
    learn.fit_progressive(2, (24,48), cbs=[cb, *args.pop('more', [])], **args)
    assert (tmp_path/'e.pkl').stat().st_size<10**6
    then = small_learner(plain_dls(path, 24))
    then.model.load_state_dict(cb.weights)
    then.dls = learn.dls.at_size(24).new_empty()
    with then.no_bar(): want = then.predict(image)[2]
    loaded = load_learner(tmp_path/'e.pkl')
    with loaded.no_bar(): assert torch.allclose(loaded.predict(image)[2], want, atol=.02)
    assert not any(type(o).__module__.startswith('fastai_progresize') for o in loaded.cbs)
    assert len(learn.stage_history)==2

def test_export_without_the_package(path, tmp_path):
    image = get_image_files(path)[0]
    learn = small_learner(plain_dls(path), path=tmp_path)
    learn.model = nn.Sequential(ConvLayer(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    cb = Callback(after_epoch=lambda self: self.learn.export(tmp_path/'e.pkl'))
    learn.fit_progressive(2, (24,48), cbs=cb, checkpoint='a')
    probs = eval(in_python(code, tmp_path, tmp_path/'e.pkl', image, path).splitlines()[-1])
    with learn.no_bar(): want = learn.predict(image)[2]
    assert np.allclose(probs, want, atol=1e-5)

def test_no_bar_of_validate_sizes(path, capsys):
    learn = small_learner(plain_dls(path))
    for own in (False,True):
        if own: learn.validate_sizes((24,48), show_plot=False)
        else:
            with learn.no_bar(): learn.validate_sizes((24,48), show_plot=False)
        assert ('|' in capsys.readouterr().out)==own

class PairOf(Transform):
    order = 1000
    def encodes(self, x:TensorImage): return (x,x)

class FirstOf(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.m = m
    def forward(self, x): return self.m(x[0])

def test_recalibrate_one_input(path):
    "An input of two images is refused by name, as two inputs are"
    learn = small_learner(plain_dls(path))
    learn.dls.train.after_batch.add(PairOf())
    learn.dls.valid.after_batch.add(PairOf())
    learn.model = FirstOf(learn.model)
    with pytest.raises(ValueError, match='recalibrate=True is for models with one input, not 2'):
        learn.validate_sizes((24,48), show_plot=False, recalibrate=True)

@pytest.mark.parametrize('aug', (np.array([.5,1.]), tensor([.5,1.]), pd.Series([.5,1.]), [.5,1.], L(.5,1.)), ids=str)
def test_aug_as_an_array(aug):
    assert [s.aug for s in Plan(4, (24,32,48), aug=aug)]==[.5,.75,1.]
