"Kinds of runs that are killed at any moment and resumed, each in processes of its own: to the same bits, or refused"
import multiprocessing, signal
import pytest
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.training import BnFreeze
from helpers import *
from test_checkpoint import processes, times_apart
import test_nothing_lost as attacks

class Average(Callback):
    "A moving average of the weights"
    order = 70
    def before_fit(self): self.ema = deepcopy(self.model)
    def after_batch(self):
        if not self.training: return
        with torch.no_grad():
            for a,b in zip(self.ema.parameters(), self.model.parameters()): a.lerp_(b, .1)

class Counter(Callback):
    "Counts batches, and weighs the loss by them"
    n = 0
    def after_loss(self): self.learn.loss_grad = self.loss_grad*(1+self.n/100)
    def after_batch(self): self.n += self.training
    def state_dict(self): return dict(n=self.n)
    def load_state_dict(self, state): self.n = state['n']

class Queue(Callback):
    "Cannot be kept"
    def __init__(self): self.last = itertools.cycle(range(9))
    def before_batch(self): next(self.last)

def spectral():
    conv = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, stride=2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return nn.Sequential(nn.Sequential(conv, nn.ReLU()), head)

def dropping(): return nn.Sequential(small_model(), nn.Dropout(.2))
def own_random(learn): learn.dls.train.after_batch.add(attacks.OwnRandom())

def kind(*cbs, fit='flat_cos', groups=1, frozen=False, workers=0, change=noop, refused=False, run={}, **kwargs):
    return SimpleNamespace(cbs=cbs, groups=groups, workers=workers, change=change, refused=refused,
                           run=dict(run, fit=fit), kwargs=dict(kwargs, frozen=frozen))

kinds = dict(
    flat_cos      = kind(), single_cycle=kind(fit='single_cycle'), fine_tune=kind(fit='fine_tune', groups=2),
    fit_one_cycle = kind(fit='fit_one_cycle'), frozen=kind(fit='fine_tune', groups=2, frozen=True),
    workers       = kind(workers=2), workers_frozen=kind(fit='fine_tune', groups=2, frozen=True, workers=2),
    sgd           = kind(opt_func=SGD), rmsprop=kind(opt_func=RMSProp), ranger=kind(opt_func=ranger),
    lamb          = kind(opt_func=Lamb), radam=kind(opt_func=RAdam),
    adamw         = kind(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)),
    torch_sgd     = kind(opt_func=partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9))),
    mixup         = kind(MixUp), cutmix=kind(CutMix), accumulation=kind(partial(GradientAccumulation, 16)),
    clip          = kind(partial(GradientClip, .1)), bn_freeze=kind(BnFreeze), channels_last=kind(ChannelsLast),
    early_stop    = kind(partial(EarlyStoppingCallback, monitor='accuracy', min_delta=2, patience=3)),
    save_best     = kind(partial(SaveModelCallback, monitor='accuracy')), csv=kind(CSVLogger),
    plateau       = kind(partial(ReduceLROnPlateau, patience=1)), terminate=kind(TerminateOnNaNCallback),
    average       = kind(Average), counter=kind(Counter), noise=kind(attacks.Noise),
    train_iter    = kind(attacks.LooksAtIter),
    loss          = kind(loss_func=attacks.CountingLoss()), smooth=kind(loss_func=LabelSmoothingCrossEntropyFlat()),
    model         = kind(model=attacks.CountingModel), spectral=kind(model=spectral), dropout=kind(model=dropping),
    generators    = kind(change=own_random), bs=kind(run=dict(bs=(16,8,4))), valid=kind(run=dict(valid_size='final')),
    aug           = kind(run=dict(aug=(.5,1.))), slow=kind(run=dict(fast=False)), queue=kind(Queue, refused=True),
)

def start(k, path, folder):
    k = kinds[k]
    learn = new_learner(path, k.groups, [o() for o in k.cbs], folder, k.workers, **deepcopy(k.kwargs))
    k.change(learn)
    return learn,k.run

def train(name, path, folder):
    "To the end, or from where it was killed"
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)        # of the workers, which then end with their parent
    learn,args = start(name, path, folder)
    (folder/'began').touch()
    run(learn, checkpoint='a', resume=True, **args)
    torch.save((weights(learn), times_apart(learn.stage_history).to_dict('list')), folder/'end.tmp')
    os.replace(folder/'end.tmp', folder/'end')

def process(processes, name, path, folder):
    folder.mkdir(exist_ok=True)
    p = processes.Process(target=train, args=(name, path, folder))
    p.start()
    return p

def end(processes, name, path, folder):
    p = process(processes, name, path, folder)
    p.join()
    assert p.exitcode==0, (name, p.exitcode)
    return torch.load(folder/'end', weights_only=False)

def killed(processes, name, path, folder, after):
    p = process(processes, name, path, folder)
    while not (folder/'began').exists(): time.sleep(.001)
    p.join(after)
    p.kill()
    p.join()
    return p.exitcode==-signal.SIGKILL

def test_kinds_work(path, tmp_path):
    "At least 30, and the one that cannot be resumed says so"
    assert len(kinds)>=35
    learn,args = start('queue', path, tmp_path)
    with pytest.warns(UserWarning, match='`queue.last` changed in training and cannot be stored'):
        with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', cbs=StopAt(7), **args)
    learn,args = start('queue', path, tmp_path)
    with pytest.raises(ValueError, match='a.ckpt cannot be resumed: `queue.last` changed'):
        run(learn, checkpoint='a', resume=True, **args)

@pytest.mark.long
@pytest.mark.parametrize('name', [k for k,o in kinds.items() if not o.refused])
def test_kills(processes, path, tmp_path, name, count):
    "Three kills of each kind, the second and third in the resumed run"
    seed = random.randrange(10**6)
    rng,began = random.Random(seed),time.time()
    want = end(processes, name, path, tmp_path/'whole')
    seconds = (tmp_path/'whole'/'end').stat().st_mtime - (tmp_path/'whole'/'began').stat().st_mtime
    kills = 0
    for share in ((.1,1.),(.1,.7),(.1,.5)):
        kills += killed(processes, name, path, tmp_path/'killed', rng.uniform(*share)*seconds)
        (tmp_path/'killed'/'began').unlink()
    got = end(processes, name, path, tmp_path/'killed')
    held = same_weights(got[0], want[0]) and attacks.is_same(got[1], want[1])
    count('kills, resumed to the same bits', kills, kills*held)
    assert held, (name, seed)

@pytest.mark.long
@pytest.mark.parametrize('name', [k for k,o in kinds.items() if not o.refused and not o.workers])
def test_reruns(path, tmp_path, name, count):
    "Interrupted, and the same cell run again by the same Learner, as often as it takes"
    whole,args = start(name, path, tmp_path/'whole')
    run(whole, **args)
    learn,args = start(name, path, tmp_path/'part')
    rng = random.Random(name)
    for n in range(40):
        try: run(learn, checkpoint='a', resume=True, cbs=StopAt(rng.randrange(1, 9)), **args)
        except KeyboardInterrupt: continue
        break
    held = same_weights(weights(learn), weights(whole))
    count('interrupts, and the cell run again', n, n*held)
    assert held
