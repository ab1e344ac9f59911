"An error names what fails: the metric, the loss, the model, a transform, or else the size"
import pytest
from helpers import *
from fastai_progresize.trial import trial_learner
from test_bad_input import refused, state

kw = dict(bs=8, num_workers=0)
two = dict(n_epoch=2, sizes=(32,48))

@pytest.fixture(scope='module')
def sorted_dls(tmp_path_factory):
    "12 images of each of three classes, which the validation set has in order"
    d = tmp_path_factory.mktemp('sorted')
    for i in range(36):
        a = np.random.RandomState(i).randint(0, 255, (56,56,3), dtype=np.uint8)
        (d/'abc'[i//12]).mkdir(exist_ok=True)
        Image.fromarray(a).save(d/'abc'[i//12]/f'{i}.png')
    files = get_image_files(d).sorted()
    splitter = FuncSplitter(lambda f: int(f.stem)%2==1)
    dblock = DataBlock((ImageBlock,CategoryBlock), get_items=lambda _: files, get_y=parent_label, splitter=splitter,
                       item_tfms=Resize(48))
    return dblock.dataloaders(d, path=d, **kw)

def learner(dls, n_out=3, **kwargs):
    set_seed(3)
    return small_learner(dls, model=partial(small_model, n_out), **kwargs)

def quiet_fit(learn, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**{**two, **kwargs})
    return learn.stage_history

# metrics

def all_classes(preds, targs):
    "As `roc_auc_score`: needs all three classes"
    if len(targs.unique())<3: raise ValueError('Number of classes in y_true not equal to the number of columns')
    return (preds.argmax(1)==targs).float().mean()

def auc(): return RocAuc()
def in_value(): return AccumMetric(all_classes, flatten=False)

@pytest.mark.parametrize('metric', [auc,in_value])
def test_metric_that_needs_all_classes(sorted_dls, metric):
    "A batch has one class, the validation set all three; the run is the one without the metric"
    learn = learner(sorted_dls, metrics=metric())
    before = state(learn)
    for check in (True,False): assert list(learn.preflight(**two, seconds=.02, check=check).df['size'])==[32,48]
    assert state(learn)==before
    history = quiet_fit(learn)
    assert 0<=history[learn.metrics[0].name].iloc[-1]<=1
    plain = learner(sorted_dls, metrics=[])
    assert history.valid_loss.tolist()==quiet_fit(plain).valid_loss.tolist()
    assert same_weights(weights(learn), weights(plain))

def wrong_shape(preds, targs): return (preds==targs).float().mean()
def wrong_type(preds, targs): return preds.argmax(1).numpy()&'a'

class Stateful(Metric):
    "Counts what it has seen; two images are too few"
    seen = 0
    def reset(self): pass
    def accumulate(self, learn): self.seen += len(learn.y)
    @property
    def value(self): return self.seen if self.seen>=18 else 1/0
    @property
    def name(self): return 'stateful'

@pytest.mark.parametrize('metric,says', [
    (wrong_shape, 'The metric wrong_shape fails on predictions of shape (8, 3) and targets of shape (8,) (RuntimeError: '),
    (wrong_type, 'The metric wrong_type fails on predictions of shape (8, 3) and targets of shape (8,) (TypeError: '),
    (AccumMetric(all_classes), 'The metric all_classes fails on predictions of shape (8, 3) and targets of shape (8,)'
                               ' (AssertionError: '),
])
def test_metric_that_fails(sorted_dls, metric, says):
    "In `accumulate`, at any size: it is the metric"
    learn = learner(sorted_dls, metrics=[accuracy,metric])
    with refused(learn, says, ': pass one that takes these, or omit it'): learn.fit_progressive(**two)
    with refused(learn, says): learn.preflight(**two, seconds=.02)

def test_metric_is_tried_on_a_copy(sorted_dls):
    metric = Stateful()
    learn = learner(sorted_dls, metrics=[metric])
    Run(learn, **two).check()
    assert metric.seen==0
    assert quiet_fit(learn).stateful.tolist()==[18,36]

def test_metric_with_the_callback_that_it_needs(sorted_dls):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_model(3)
        def forward(self, x): return self.body(x),x
    class First(Callback):
        def after_pred(self): self.learn.pred = self.pred[0]
    def loss(preds, targs): return F.cross_entropy(preds if isinstance(preds, Tensor) else preds[0], targs)
    learn = learner(sorted_dls, loss_func=loss, metrics=[accuracy,in_value()], cbs=First())
    learn.model = Two()
    assert quiet_fit(learn)['size'].tolist()==[32,48]
    learn.remove_cb(First)
    with refused(learn, 'The metric accuracy fails on predictions of type tuple'): learn.fit_progressive(**two)

def test_metrics_of_other_learners(sorted_dls):
    "Nothing is tried without a validation set, with `check=False`, and where nothing records metrics"
    learn = learner(sorted_dls, metrics=wrong_shape)
    assert list(learn.preflight(**two, seconds=.02, check=False).df['size'])==[32,48]
    learn.recorder.valid_metrics = False
    Run(learn, **two).check()
    learn.recorder.valid_metrics = True
    with pytest.raises(RuntimeError, match='The size of tensor a'): quiet_fit(learn, check=False)
    empty = DataLoaders(sorted_dls.train, sorted_dls.valid.new(sorted_dls.valid_ds.new_empty()))
    learn = learner(empty, metrics=wrong_shape)
    assert quiet_fit(learn)['size'].tolist()==[32,48]

class Forgets(Callback):
    "Has a queue, which no checkpoint keeps"
    def before_fit(self): self.seen = collections.deque()
    def before_batch(self): self.seen.append(self.x.mean().item())

def test_metric_does_not_hide_what_a_checkpoint_cannot_keep(sorted_dls):
    learn = learner(sorted_dls, metrics=auc(), cbs=Forgets())
    with refused(learn, '`forgets` has no `state_dict`: what it keeps as seen would start over'):
        learn.fit_progressive(**two, checkpoint='saved')
