"Every callback sees one run, and after a run or an interrupt the learner works as usual"
import pytest
from fastai.callback.training import GradientAccumulation, GradientClip
from helpers import *

run = dict(n_epoch=(2,2), sizes=(32,48), fit='fine_tune')     # five epochs: two, one frozen, two

@pytest.fixture
def learn(dls, tmp_path): return small_learner(dls, 2, lr=3e-3, path=tmp_path, cbs=Record)

def test_one_csv(learn, tmp_path):
    learn.fit_progressive(**run, cbs=CSVLogger())
    df = pd.read_csv(tmp_path/'history.csv')
    assert list(df.columns)==['epoch','train_loss','valid_loss','accuracy','size','time']
    assert list(df.epoch)==list(range(5)) and list(df['size'])==[32,32,48,48,48]
    assert np.allclose(df.valid_loss, learn.stage_history.valid_loss)
    assert not hasattr(learn, 'csv_logger')                  # the callback went with the run
    assert learn.metrics.attrgot('name')==['accuracy']

def test_csv_of_rectangles(learn, tmp_path):
    learn.fit_progressive((1,1), sizes=((24,32),(32,48)), fit='fine_tune', cbs=CSVLogger())
    assert list(pd.read_csv(tmp_path/'history.csv')['size'])==[24,32,32]
    assert list(learn.stage_history['size'])==[(24,32),(32,48),(32,48)]

class Watch(Callback):
    "What the trackers' comparisons were made with"
    order = 59
    def before_fit(self):
        self.n_fit = getattr(self, 'n_fit', 0)+1
        self.losses,self.valid_shapes = [],[]
    def before_validate(self): self.valid_shapes.append(tuple(first(self.dl)[0].shape[-2:]))
    def after_epoch(self): self.losses.append(self.recorder.values[-1][1])

def test_save_best(learn):
    w = Watch()
    seen = []
    class Keep(Callback):
        order = 70
        def after_epoch(self): seen.append(weights(self.learn))
    learn.fit_progressive(**run, cbs=[SaveModelCallback(), w, Keep()])
    assert w.n_fit==1
    assert w.valid_shapes==[(48,48)]*5                       # 'final' as soon as epochs are compared
    assert same_weights(weights(learn), seen[int(np.argmin(w.losses))])

def test_valid_size(learn):
    for v,shapes in ((None,[32,32,48,48,48]), ('stage',[32,32,48,48,48]), ('final',[48]*5), (64,[64]*5)):
        w = Watch()
        learn.fit_progressive(**run, valid_size=v, cbs=w)
        assert w.valid_shapes==[(o,o) for o in shapes]
        assert list(learn.stage_history['size'])==[32,32,48,48,48]

def test_early_stopping(learn):
    "It ends the run, not the stage, and patience continues across a switch"
    learn.fit_progressive(**run, cbs=EarlyStoppingCallback(min_delta=100., patience=3))
    assert len(learn.stage_history)==4                       # first epoch is best, then three that are not
    assert tfms_size(learn.dls.train)==(48,48)

def test_reduce_lr(learn, capsys):
    "It counts the epochs of the run: the first is best, each later one is not"
    cb = ReduceLROnPlateau(min_delta=100., patience=1)
    learn.fit_progressive(**run, cbs=cb)
    assert cb.wait==0 and len(learn.stage_history)==5
    assert re.findall(r'Epoch (\d): reducing lr', capsys.readouterr().out)==list('1234')

@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mix(learn, cb):
    loss = learn.loss_func
    learn.fit_progressive(**run, cbs=cb())
    assert learn.loss_func is loss and len(learn.stage_history)==5

def test_show_graph(learn):
    class Mbar(Callback):
        order = 66
        def before_fit(self):
            self.graphs = []
            self.learn.progress.mbar.update_graph = lambda g,*a: self.graphs.append([len(o[0]) for o in g])
    m = Mbar()
    learn.fit_progressive(**run, cbs=[ShowGraphCallback(), m])
    assert m.graphs==[[3*i,i] for i in range(1, 6)]          # three batches per epoch, one curve over all of them

@pytest.mark.parametrize('fit', ['fit_one_cycle','single_cycle'])
def test_accumulation(learn, fit):
    "Gradients of one size are not applied at another"
    pending = []
    class Look(Callback):
        order = 80
        def before_epoch(self):
            grads = [p.grad.abs().sum().item() for p in self.model.parameters() if p.grad is not None]
            pending.append((self.gradient_accumulation.count, sum(grads)))
    learn.fit_progressive([Stage(32, 1), Stage(48, 2)], fit=fit, cbs=[GradientAccumulation(16), Look()])
    assert pending[0][0]==0 and pending[1]==(0,0.)           # 24 images, 16 a step: 8 would have waited
    assert pending[2][0]==8 and pending[2][1]>0              # within a stage they do wait

def test_clipping(learn):
    norms = []
    class Norm(Callback):
        order = 90
        def before_step(self):
            grads = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
            norms.append(torch.stack(grads).norm().item())
    learn.fit_progressive(**run, cbs=[GradientClip(.1), Norm()])
    assert len(norms)==15 and max(norms)<=.1001

def test_plots_and_finder(learn):
    "`lr_find` before and after, and the recorder's plots over the whole run"
    assert learn.lr_find(num_it=10, show_plot=False).valley>0
    learn.fit_progressive(**run)
    rec = learn.recorder
    assert len(rec.losses)==len(rec.lrs)==len(rec.hps['lr'])==len(rec.hps['mom'])==15
    assert rec.iters==[3,6,9,12,15] and len(rec.values)==5
    assert [float(o) for o in rec.lrs]==[float(h[-1][0]) for h in learn.record.hypers[-15:]]
    rec.plot_sched()
    rec.plot_loss(show_epochs=True)
    assert len(learn.plot_stages())==2
    assert learn.lr_find(num_it=10, show_plot=False).valley>0
    assert learn.validate()[0]==pytest.approx(learn.stage_history.valid_loss.iloc[-1], rel=1e-4)
    learn.fit_one_cycle(1)
    assert 'size' not in rec.metric_names

def test_after_a_run(learn, tmp_path, path):
    learn.fit_progressive(**run)
    assert tfms_size(learn.dls.train)==(48,48)
    learn.export('x.pkl')
    new = load_learner(tmp_path/'x.pkl')
    assert new.predict(get_image_files(path)[0])[0] in learn.dls.vocab
    assert learn.tta(n=2)[0].shape==(10,10)

def test_no_progress(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**run)
    assert len(learn.stage_history)==5

def test_second_run_starts_again(learn):
    learn.fit_progressive(**run)
    learn.fit_progressive(2, sizes=(32,48))
    assert list(learn.stage_history.epoch)==[0,1]

def test_pretrained_warns_once(path):
    from fastai_progresize.learner import _warn_pretrained
    _warn_pretrained.cache_clear()
    learn = vision_learner(get_dls(48, 8, path, num_workers=0), resnet18, pretrained=False)
    learn.pretrained = True
    learn.freeze()
    with pytest.warns(UserWarning, match='may hurt') as w: learn.fit_progressive((1,1), sizes=(32,48))
    n = len([o for o in w if 'may hurt' in str(o.message)])
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        learn.fit_progressive(1, sizes=48)
        learn.fit_progressive((1,1), sizes=(32,48))
    assert n==1 and not [o for o in w if 'may hurt' in str(o.message)]

def test_frozen_body(dls):
    "A learner that comes frozen is fine-tuned from the first stage on"
    learn = small_learner(dls, 2, frozen=True, cbs=Record)
    learn.fit_progressive(4, sizes=(32,48))
    body = [not p.requires_grad for p in learn.model[0][0][0].parameters()]
    assert not any(body) and learn.opt.frozen_idx==0
    lrs = [h[-1][0] for h in learn.record.hypers]
    assert len(lrs)==15        # four epochs of the whole model, and one of its head before them
    assert [h[0][0]==h[-1][0] for h in learn.record.hypers]==[False]*15

# Interrupts

class StopAt(Callback):
    order = 200
    def __init__(self, epoch, exc, when='after_loss'): self.stop_at,self.exc = epoch,exc
    def after_loss(self):
        if self.epoch==self.stop_at and self.training: raise self.exc

@pytest.mark.parametrize('epoch', [0,1,2,3])
@pytest.mark.parametrize('frozen', [False,True])
@pytest.mark.parametrize('exc', [KeyboardInterrupt(), RuntimeError('out of luck')])
@pytest.mark.every(3)
def test_interrupt(dls, tmp_path, epoch, frozen, exc):
    learn = small_learner(dls, 2, frozen=frozen, path=tmp_path)
    keep = {k: getattr(learn, k) for k in ('dls','model','loss_func','logger')}
    cbs,metrics,start = list(learn.cbs),list(learn.metrics),weights(learn)
    grads,idx = [p.requires_grad for p in learn.model.parameters()],getattr(learn.opt, 'frozen_idx', 0)
    log = CSVLogger()
    run_cbs = [log, MixUp(), SaveModelCallback(), StopAt(epoch, exc)]
    with pytest.raises(type(exc)): learn.fit_progressive(**run, cbs=run_cbs)
    for k,v in keep.items(): assert getattr(learn, k)==v, k
    assert list(learn.cbs)==cbs and list(learn.metrics)==metrics
    assert [p.requires_grad for p in learn.model.parameters()]==grads and learn.opt.frozen_idx==idx
    assert log.file.closed and len(pd.read_csv(tmp_path/'history.csv'))==epoch
    assert len(learn.stage_history)==epoch
    assert epoch==0 or not same_weights(weights(learn), start)
    learn.fit_progressive(2, sizes=(32,48))                  # and it trains again
    assert len(learn.stage_history)==2+frozen

def test_interrupt_in_autocast(learn):
    "Mixed precision is switched on within a batch: an interrupt there does not leave it on"
    class Amp(Callback):
        def before_batch(self):
            torch.set_autocast_enabled('cuda', True)
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): learn.fit_progressive(**run, cbs=Amp())
    assert not torch.is_autocast_enabled('cuda')

def test_train_metrics(dls):
    learn = small_learner(dls, cbs=Recorder(train_metrics=True), default_cbs=False)
    learn.add_cbs([TrainEvalCallback, CastToTensor])
    with learn.no_logging(): learn.fit_progressive(2, sizes=(32,48))
    metrics = ['train_loss','train_accuracy','valid_loss','valid_accuracy']
    assert list(learn.stage_history.columns)==['epoch','stage','size','bs','lr',*metrics,'seconds','loading','images/s']

def test_short_epochs(learn):
    "Cancelled epochs have a row too"
    from fastai.callback.training import ShortEpochCallback
    learn.fit_progressive(2, sizes=(32,48), cbs=ShortEpochCallback(.3, short_valid=False))
    df = learn.stage_history
    assert len(df)==2 and 0<=df.accuracy.iloc[0]<=1 and df.valid_loss.notna().all()

def test_cancel_fit(learn):
    "`CancelFitException` ends the run as it ends a fit"
    learn.fit_progressive(**run, cbs=StopAt(1, CancelFitException()))
    assert len(learn.stage_history)==1 and tfms_size(learn.dls.train)==(48,48)

def test_no_leftovers(learn):
    "No stage keeps the data of another"
    import gc, weakref
    refs,own = [],learn.dls
    class Refs(Callback):
        order = 100
        def before_epoch(self): refs.append(weakref.ref(self.dls.train))
    learn.fit_progressive([Stage(s, 1, fit='fit_one_cycle') for s in (32,40,48,56)], cbs=Refs())
    learn.dls = own
    gc.collect()
    assert [o() for o in refs]==[None]*4
