"Unusual Learners, interrupted and resumed: to the same bits, or refused by name; never other bits without a word"
import threading
import pytest
from fastai.callback.data import CollectDataCallback
from fastai.callback.hook import ActivationStats
from helpers import *
from test_checkpoint import processes

# a run of two sizes that takes a moment

def pixels(i): return np.random.RandomState(i).randint(0, 255, (16,16,3), dtype=np.uint8)

class Get:
    "`get_x` that is an object"
    def __init__(self, rng=None): self.rng = rng
    def __call__(self, i): return pixels(i) if self.rng is None else pixels(i)//int(self.rng.integers(1, 5))

def block(get_x=pixels, item=(), batch=()):
    return DataBlock((ImageBlock,CategoryBlock), get_x=get_x, get_y=lambda i: i%2, splitter=IndexSplitter(range(8, 12)),
                     item_tfms=[*item, Resize(16)], batch_tfms=list(batch))

def loaders(**kwargs): return block(**kwargs).dataloaders(range(12), bs=4, num_workers=0)

def simple(): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))

def learner(model=simple, dls=loaders, **kwargs):
    return Learner(dls(), model(), lr=.1, **{'loss_func':CrossEntropyLossFlat(), **kwargs})

class Stop(Callback):
    order = 10_000
    def __init__(self, epoch): self.at = epoch
    def after_batch(self):
        if self.training and self.epoch==self.at: raise KeyboardInterrupt

def new(kind):
    "A Learner, and callbacks, of a kind"
    set_seed(3)
    learn = kind.make()
    learn.path = Path('.')
    return learn,[o() for o in kind.cbs]

def train(kind, stop=None, again=None, **kwargs):
    "Train a new Learner of a kind, or the same one `again`"
    learn,cbs = again or new(kind)
    cbs = cbs+([] if stop is None else [Stop(stop)])
    args = dict(sizes=(8,16), fast=False, check=False, valid_size='stage', cbs=cbs) | (kind.run if kind else {}) | kwargs
    if not isinstance(learn.dls.train, TfmdDL): args.update(get_dls=lambda size, bs: learn.dls, bs=4)
    with learn.no_bar(), learn.no_logging():
        try: learn.fit_progressive(3, **args)
        except KeyboardInterrupt: assert stop is not None
    return learn

# state in a model

class Weighs(nn.Module):
    "Weighs its output by something that it keeps"
    def __init__(self, o): super().__init__(); self.body,self.o = simple(),o
    def forward(self, x): return self.body(x)*(1+self.step(x)/10) if self.training else self.body(x)

def weighs(start, step):
    "A model that keeps `start()`, and changes it as `step` does, which returns a number"
    return type('Weighing', (Weighs,), dict(step=lambda self, x: step(self)))(start())

def model(start, step): return lambda: learner(partial(weighs, start, step))

def add(name):
    def _add(self): setattr(self, name, getattr(self, name, 0)+1); return getattr(self, name)
    return _add
def tensors(self): self.o = type(self.o)(o*.9+.1 for o in self.o); return self.o[0].item()
def items(d, k): d[k] = d.get(k, 0)+1; return d[k]
def text(self): self.mood = getattr(self, 'mood', '')+'b'; return len(self.mood)
def given_text(self): self.o += 'b'; return len(self.o)
def first_none(self): self.o = torch.ones(2) if self.o is None else self.o*.9; return self.o[0].item()
def appended(self): self.o.append(len(self.o)); return len(self.o)
def in_set(self): self.o.add(len(self.o)); return len(self.o)
def class_attr(self): type(self).k = getattr(type(self), 'k', 0)+1; return type(self).k

class Thing:
    "Of your own"
    def __init__(self, n=0): self.n = n
    def __call__(self, *args): self.n += 1; return self.n
def things(self): return self.o[1][0]()

class Classy(Weighs):
    k = 0
    def __init__(self): super().__init__(0); Classy.k = 0
    def step(self, x): Classy.k += 1; return Classy.k

class Buffer(Weighs):
    def __init__(self): super().__init__(0); self.register_buffer('b', torch.zeros(1), persistent=False)
    def step(self, x): self.b += 1; return self.b.item()

class Recurrent(nn.Module):
    "An LSTM whose state goes on"
    def __init__(self): super().__init__(); self.rnn,self.out,self.state = nn.LSTM(12, 4),nn.Linear(4, 2),None
    def forward(self, x):
        x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        y,state = self.rnn(x.mean(0, keepdim=True), self.state)
        if self.training: self.state = tuple(o.detach() for o in state)
        return self.out(y)+x[:,:2]

# in a loss

class Loss:
    "No module"
    def __init__(self, o=None): self.o,self._seen = o,0
    def weight(self): self._seen += 1; return self._seen
    def __call__(self, p, y): return F.cross_entropy(p, TensorBase(y))*(1+self.weight()*p.requires_grad/10)
class ListLoss(Loss):
    def weight(self): self.o.append(1.); return len(self.o)
class RandomLoss(Loss):
    def weight(self): return self.o.random()
class InBase(nn.Module):
    def __init__(self, axis=-1): super().__init__(); self._n = 0
    def forward(self, p, y): self._n += p.requires_grad; return F.cross_entropy(p, y)*(1+self._n/10)
class OtherLoss(Callback):
    def before_epoch(self):
        if self.epoch==1: self.learn.loss_func = Loss()

# in data

class Tfm(Transform):
    order = 200
    def __init__(self, o): self.o,self.n = o,0
    def encodes(self, x:TensorImage): self.n += 1; return x*self.by()
    def by(self): return .5+self.o.random()
class InObject(Tfm):
    def by(self): return .5+self.o.o.random()
class InList(Tfm):
    def by(self): return .5+self.o[0].random()
class CountsTfm(Tfm):
    def by(self): return 1+self.n/10
class Compose:
    "Like albumentations with a seed"
    def __init__(self, seed):
        self.random_generator,self.py_random = np.random.default_rng(seed),random.Random(seed)
        self.transforms = [Holder(self.py_random),Holder(self.random_generator)]
    def random(self): return sum(o.o.random() for o in self.transforms)
class Holder:
    def __init__(self, o): self.o = o
def tfm(make): return lambda: learner(dls=lambda: loaders(batch=[make()]))
def closure():
    get = Get(np.random.default_rng(1))
    return lambda i: get(i)

class Numbers(torch.utils.data.Dataset):
    "torch's, with a generator of its own, or a counter"
    def __init__(self, ids, rng=None, counts=False): self.ids,self.rng,self.counts,self.n = list(ids),rng,counts,0
    def __len__(self): return len(self.ids)
    def __getitem__(self, i):
        self.n += self.counts
        x = tensor(pixels(self.ids[i])).permute(2, 0, 1).float()/255
        return x*(1+self.n/10 + (0 if self.rng is None else self.rng.random())),self.ids[i]%2
class InTurn(torch.utils.data.Sampler):
    "Begins with another item each time"
    def __init__(self, n): self.n,self.start = n,0
    def __len__(self): return self.n
    def __iter__(self): self.start += 1; return iter([(i+self.start)%self.n for i in range(self.n)])
class Collate:
    n = 0
    def __call__(self, b): self.n += 1; x,y = torch.utils.data.default_collate(b); return x*(1+self.n/10),y
class CountsDL(torch.utils.data.DataLoader):
    epochs = 0
    def __iter__(self): self.epochs += 1; return ((x*(1+self.epochs),y) for x,y in super().__iter__())

def torch_data(cls=torch.utils.data.DataLoader, ds=Numbers, **kwargs):
    "Learner of torch's loaders, the same ones at each size"
    def _make():
        made = {k: v() for k,v in kwargs.items()}
        dls = DataLoaders(cls(ds(range(8)), batch_size=4, **made), torch.utils.data.DataLoader(ds(range(8, 12)), batch_size=4))
        return Learner(dls, simple(), lr=.1, loss_func=nn.CrossEntropyLoss())
    return _make
class OwnDls(Callback):
    "Draws from loaders of its own"
    def __init__(self): self.other = loaders()
    def after_loss(self):
        if self.training: self.learn.loss_grad = self.loss_grad*(1+self.other.train.one_batch()[1].sum())

# in callbacks and on the Learner

class Weigh(Callback):
    "Weighs the loss"
    def __init__(self): self.o,self.n = self.start(),0
    def start(self): pass
    def after_loss(self):
        if self.training: self.learn.loss_grad = self.loss_grad*(1+self.by()/10)
    def by(self): self.n += 1; return self.n
def weigh(start, by): return type('Weighing', (Weigh,), dict(start=lambda self: start(), by=by))
class Stated(Weigh):
    def state_dict(self): return dict(n=self.n)
    def load_state_dict(self, state): self.n = state['n']
class NotPlain(Stated):
    def state_dict(self): return dict(o=Thing())
def on_learner(self): self.learn.mine = self.learn.__dict__.get('mine', 0)+1; return self.learn.mine
class Average(Callback):
    "Of the weights, which pulls at them"
    def before_fit(self): self.ema = deepcopy(self.model)
    def after_batch(self):
        if not self.training: return
        with torch.no_grad():
            for a,b in zip(self.ema.parameters(), self.model.parameters()): a.lerp_(b, .5); b.lerp_(a, .1)
class Teacher(Average):
    "In a Learner"
    def __init__(self): self.teacher = learner()
    def before_fit(self): self.ema = self.teacher.model
class Freezes(Callback):
    def before_epoch(self):
        if self.epoch==1: self.model[-1].weight.requires_grad_(False)
class AddsHook(Callback):
    def before_epoch(self):
        if self.epoch==1: self.model[-1].register_forward_hook(lambda m, i, o: o*2)
class Patches(Callback):
    def before_epoch(self):
        if self.epoch==1: self.model.forward = lambda x: nn.Sequential.forward(self.model, x)*2
class SecondOpt(Weigh):
    "An optimizer and a scheduler of torch"
    def before_fit(self):
        self.p = nn.Parameter(torch.ones(2))
        self.adam = torch.optim.Adam([self.p], lr=.1)
        self.step_lr = torch.optim.lr_scheduler.StepLR(self.adam, 2)
    def by(self):
        self.p.grad = self.p.detach()*self.loss.detach()
        self.adam.step(), self.step_lr.step()
        return self.p.sum().item()
class Iterates(Weigh):
    def by(self): return next(self.o)
def numbers():
    for i in itertools.count(): yield i
class Locked(Weigh):
    def start(self): return threading.Lock()
class Files(Weigh):
    def by(self): self.o = Path(f'{self.epoch}.log'); return len(self.o.name)*self.epoch
class TextFiles(Weigh):
    def by(self): self.fname = f'log{self.epoch}'; return self.epoch
class OwnMetric(Metric):
    "Counts all epochs, not only its own"
    n = 0
    def accumulate(self, learn): self.n += 1
    @property
    def value(self): return self.n
class ByMetric(Weigh):
    def by(self): return self.learn.metrics[0].n
class LowerAlpha(Callback):
    def before_epoch(self): self.learn.dls.train.bs = 4 if self.epoch else 3
class DropsMore(Callback):
    def before_epoch(self): self.model[0].p = .1*(self.epoch+1) if self.epoch!=2 else self.model[0].p+.2

# in optimizers

class CountsSteps(Optimizer):
    n = 0
    def step(self, closure=None): self.n += 1; self.set_hyper('lr', .1/self.n); super().step(closure)
def counting(params, lr=.1, **kwargs): return CountsSteps(params, [sgd_step], lr=lr)
class TorchCounts(torch.optim.SGD):
    n = 0
    def step(self, closure=None):
        self.n += 1
        for g in self.param_groups: g['lr'] = .1/self.n
        return super().step(closure)

def kind(make=learner, *cbs, says=None, run={}): return SimpleNamespace(make=make, cbs=cbs, says=says, run=run)
def dropping(): return nn.Sequential(nn.Dropout(.1), simple())
def with_loss(make): return lambda: learner(loss_func=make())
def with_opt(f): return lambda: learner(opt_func=f)

kinds = dict(
    plain          = kind(), private=kind(model(int, add('_n'))), number=kind(model(int, add('o'))),
    list_tensors   = kind(model(lambda: [torch.zeros(1), torch.ones(2)], tensors)),
    tuple_tensors  = kind(model(lambda: (torch.zeros(1), torch.ones(2)), tensors)),
    dict_numbers   = kind(model(dict, lambda self: items(self.o, 'a'))),
    default_dict   = kind(model(lambda: defaultdict(int), lambda self: items(self.o, 'a'))),
    counter        = kind(model(collections.Counter, lambda self: items(self.o, 'a'))),
    array          = kind(model(lambda: np.zeros(3), lambda self: self.o.__iadd__(1)[0])),
    np_number      = kind(model(lambda: np.float32(.1), lambda self: setattr(self, 'o', self.o*np.float32(1.1)) or self.o)),
    text           = kind(model(int, text)), given_text=kind(model(str, given_text), says='model.o'), deque=kind(model(collections.deque, appended)),
    list_numbers   = kind(model(list, appended)), fastai_list=kind(model(L, appended)), set=kind(model(set, in_set)),
    none_first     = kind(model(lambda: None, first_none)),
    torch_random   = kind(model(lambda: torch.Generator().manual_seed(1), lambda self: torch.rand(1, generator=self.o).item())),
    py_random      = kind(model(lambda: random.Random(1), lambda self: self.o.random())),
    np_random      = kind(model(lambda: np.random.default_rng(1), lambda self: self.o.random())),
    random_state   = kind(model(lambda: np.random.RandomState(1), lambda self: self.o.rand())),
    thing          = kind(model(Thing, lambda self: self.o())), things=kind(model(lambda: [1,[Thing()]], things)),
    class_attr     = kind(lambda: learner(Classy), says='Classy.k'), buffer=kind(lambda: learner(Buffer)),
    recurrent      = kind(lambda: learner(Recurrent)),
    frozen_by_hand = kind(learner, Freezes), added_hook=kind(learner, AddsHook, says='hooks'),
    patched        = kind(learner, Patches, says='forward'), dropout=kind(lambda: learner(dropping), DropsMore),
    loss_seen      = kind(with_loss(Loss)), loss_list=kind(with_loss(lambda: ListLoss([]))),
    loss_random    = kind(with_loss(lambda: RandomLoss(random.Random(1)))),
    loss_base      = kind(with_loss(lambda: BaseLoss(InBase))),
    loss_partial   = kind(with_loss(lambda: partial(Loss()))),
    loss_swapped   = kind(learner, OtherLoss, says='loss_func'),
    tfm_random     = kind(tfm(lambda: Tfm(random.Random(1)))), tfm_object=kind(tfm(lambda: InObject(Holder(random.Random(1))))),
    tfm_list       = kind(tfm(lambda: InList([random.Random(1)]))), tfm_counts=kind(tfm(lambda: CountsTfm(None))),
    albumentations = kind(tfm(lambda: Tfm(Compose(1)))),
    get_x          = kind(lambda: learner(dls=lambda: loaders(get_x=Get(np.random.default_rng(1))))),
    get_x_closure  = kind(lambda: learner(dls=lambda: loaders(get_x=closure()))),
    ds_random      = kind(torch_data(ds=lambda ids: Numbers(ids, np.random.default_rng(1)))),
    ds_counts      = kind(torch_data(ds=partial(Numbers, counts=True))),
    sampler        = kind(torch_data(sampler=lambda: InTurn(8))), collate=kind(torch_data(collate_fn=Collate)),
    loader_counts  = kind(torch_data(cls=CountsDL)), generator=kind(torch_data(generator=lambda: torch.Generator().manual_seed(1))),
    own_dls        = kind(learner, OwnDls), loader_bs=kind(learner, LowerAlpha, says='bs'),
    cb_counts      = kind(learner, Weigh), cb_callable=kind(learner, weigh(Thing, lambda self: self.o())),
    cb_queue       = kind(learner, weigh(lambda: collections.deque(maxlen=3), lambda self: self.o.append(self.loss.item()) or self.o[0])),
    cb_lists       = kind(learner, weigh(lambda: dict(a=[]), lambda self: self.o['a'].append(self.loss.detach()) or len(self.o['a']))),
    cb_batches     = kind(learner, weigh(list, lambda self: self.o.append(self.xb) or self.o[0][0].mean().item()*len(self.o))),
    cb_cycle       = kind(learner, weigh(lambda: itertools.cycle(range(5)), lambda self: next(self.o)), says='weighing.o'),
    cb_state_dict  = kind(learner, Stated), cb_on_learner=kind(learner, weigh(int, on_learner)),
    cb_function    = kind(learner, weigh(lambda: None, lambda self: setattr(self, 'o', lambda: 1) or self.epoch), says='weighing.o'),
    cb_file        = kind(learner, Files, says='files.o'), cb_file_name=kind(learner, TextFiles, says='text_files.fname'),
    cb_lock        = kind(learner, Locked), average=kind(learner, Average), teacher=kind(learner, Teacher),
    second_opt     = kind(learner, SecondOpt), metric=kind(lambda: learner(metrics=OwnMetric()), ByMetric),
    opt_counts     = kind(with_opt(counting)), opt_torch=kind(with_opt(partial(OptimWrapper, opt=TorchCounts))),
    ranger         = kind(with_opt(ranger)), lamb=kind(with_opt(Lamb)), adamw=kind(with_opt(partial(OptimWrapper, opt=torch.optim.AdamW))),
    mixup          = kind(learner, MixUp, run=dict(aug=(.5,1.))), accumulation=kind(learner, partial(GradientAccumulation, 6)),
    plateau        = kind(learner, partial(ReduceLROnPlateau, patience=1, min_delta=9)), csv=kind(learner, CSVLogger),
    stats          = kind(learner, partial(ActivationStats, with_hist=True)), every=kind(learner, partial(ActivationStats, every=2)),
    collected      = kind(learner, CollectDataCallback),
)

def resumed(k, stop, whole):
    "Stopped in epoch `stop` and continued by a new Learner: does it end with the same bits? Or why not"
    train(k, stop, checkpoint=f'a{stop}')
    try: learn = train(k, checkpoint=f'a{stop}', resume=True)
    except ValueError as e: return str(e),None
    return same_weights(weights(learn), weights(whole)),learn

@pytest.mark.parametrize('name', kinds)
def test_kinds(name, recwarn):
    "One process; refused only where `says`, and then the state is named when it is seen first"
    k = kinds[name]
    whole = train(k)
    got,learn = resumed(k, 2, whole)
    if not k.says:
        assert got is True
        for cb in ('activation_stats','collect_data'):
            if hasattr(learn, cb): assert is_same(getattr(learn, cb), getattr(whole, cb))
        return
    assert 'cannot be resumed' in got and k.says in got
    assert any('cannot be stored' in str(o.message) and k.says in str(o.message) for o in recwarn)

def test_named_before_training():
    "What can be neither stored nor compared; and what `state_dict` returns is an error if it is not plain"
    with pytest.warns(UserWarning, match='`locked.o` can be neither stored nor compared'):
        train(kinds['cb_lock'], checkpoint='a')
    learn,cbs = new(kind(learner, NotPlain))
    with pytest.raises(ValueError, match='^A Thing cannot be kept in a checkpoint'):
        train(None, None, (learn,cbs), checkpoint='b')
    assert learn.opt is None

def is_same(a, b):
    a,b = (o.stats if hasattr(o, 'stats') else o.data for o in (a,b))
    return len(a)==len(b) and str(a)==str(b)

def test_60_kinds(count):
    assert len(kinds)>=60
    count('kinds of Learner with unusual state, the same bits or refused by name', len(kinds), len(kinds))

@pytest.mark.parametrize('name', kinds)
@pytest.mark.every(4)
def test_reruns(name):
    "Interrupted in its first epoch, and the same cell run again by the same Learner"
    k = kinds[name]
    again = new(k)
    train(k, 0, again, checkpoint='b')
    try: learn = train(k, None, again, checkpoint='b', resume=True)
    except ValueError as e:
        assert k.says or name in ('loss_list','get_x','get_x_closure') and 'is of another run' in str(e), str(e)
        return
    assert same_weights(weights(learn), weights(train(k)))

def in_new_process(name, folder, **kwargs):
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.save(weights(train(kinds[name], **kwargs)), folder/'end')

@pytest.mark.long
@pytest.mark.parametrize('name', [k for k,o in kinds.items() if not o.says])
def test_new_processes(processes, name, tmp_path, count):
    for kwargs in (dict(stop=2, checkpoint='a'), dict(checkpoint='a', resume=True)):
        p = processes.Process(target=in_new_process, args=(name, tmp_path), kwargs=kwargs)
        p.start()
        p.join()
        assert p.exitcode==0
    held = same_weights(torch.load(tmp_path/'end'), weights(train(kinds[name])))
    count('kinds of Learner resumed in a new process, the same bits', 1, held)
    assert held

# nothing is run before the run, and the checks leave state alone

class Events(Callback):
    def __init__(self): self.seen = []
    def before_fit(self): self.seen.append('before_fit')
    def before_batch(self): self.seen.append('before_batch')
    def after_fit(self): self.seen.append('after_fit')

def test_no_hidden_epoch():
    "With `checkpoint=` the events of a run, and no others: also of what is shared with a copy"
    seen = []
    class Shared(Events):
        def __init__(self): pass
        def __getattr__(self, k): return seen if k=='seen' else super().__getattr__(k)
    train(kind(learner, Shared), checkpoint='a')
    assert seen.count('before_fit')==seen.count('after_fit')==1 and seen.count('before_batch')==9

@pytest.mark.parametrize('name', ['ds_random','ds_counts','sampler','collate','loader_counts','get_x','get_x_closure',
                                  'tfm_random','tfm_counts','albumentations','loss_random','metric'])
def test_checks_leave_state_alone(name):
    k = kinds[name]
    sizes = (16,) if 'torch_data' in str(k.make) else (8,16)       # whose loaders are the same at each size
    a,b = (train(k, check=o, sizes=sizes) for o in (True,False))
    assert same_weights(weights(a), weights(b))

# a checkpoint of a stranger

@pytest.fixture
def saved():
    "A run with a `SaveModelCallback`, stopped in its third epoch"
    k = kind(learner, SaveModelCallback, CSVLogger, Files)
    k.cbs = k.cbs[:2]
    train(k, 2, checkpoint='a')
    return k,read_checkpoint('models/a.ckpt')

strange = {
    'save_model.fname': '/tmp/strange', 'save_model.every_epoch': True, 'save_model.monitor': 'x', 'learn.path': '/tmp',
    'learn.model_dir': '/tmp', 'csv_logger.fname': '/tmp/x', 'learn.save': 3, 'learn.lr': 7, 'own_dls.loaders[0].bs': 1,
    'model[0].x': 3, 'save_model.learn': 3, 'learn.logger': 3, 'loss_func.axis': 9, 'dls.path': '/tmp', 'recorder.lrs': 'x',
    'recorder.order': 'x', 'model.0.output_size': 'many',
}

def refused_as_it_was(k, state):
    torch.save(state, 'models/a.ckpt')
    again = new(k)
    before,params = weights(again[0]),[p.requires_grad for p in again[0].model.parameters()]
    with pytest.raises(ValueError, match='a.ckpt cannot be resumed: it does not fit this run'):
        train(k, None, again, checkpoint='a', resume=True)
    assert same_weights(before, weights(again[0]))
    assert params==[p.requires_grad for p in again[0].model.parameters()]

@pytest.mark.parametrize('path', strange)
def test_names_of_a_stranger(saved, path):
    "Settings, names of files and what no run stores are not restored"
    k,state = saved
    state['leaves'][path] = strange[path]
    refused_as_it_was(k, state)

def first_state(s): return s['opt']['state'][0]
strange_opts = dict(
    shape = lambda s: first_state(s).update(grad_avg=torch.zeros(3)), none=lambda s: first_state(s).update(sqr_avg=None),
    number = lambda s: first_state(s).update(grad_avg=3.), text=lambda s: first_state(s).update(step='x'),
    name = lambda s: first_state(s).update(other=3.), fewer=lambda s: s['opt']['state'].pop(),
    hypers = lambda s: s['opt'].update(hypers=[]), hyper=lambda s: s['opt']['hypers']['value'][0].update(lr='x'),
    frozen = lambda s: s.update(frozen_idx=9), frozen_text=lambda s: s.update(frozen_idx='x'),
    grads = lambda s: s['requires_grad'].pop(), grad=lambda s: s['requires_grad'].__setitem__(0, 3),
    weight = lambda s: s['model'].update({'2.weight': torch.zeros(3)}), gradient=lambda s: s['grads'].__setitem__(0, torch.zeros(9)),
    random = lambda s: s['random'][0]['others'].update({'own_dls.loaders[0].rng': 3}),
    generator = lambda s: s['random'][0]['others'].update({'model.0': 3}),
)

@pytest.mark.parametrize('name', strange_opts)
def test_optimizer_of_a_stranger(saved, name):
    k,state = saved
    strange_opts[name](state)
    refused_as_it_was(k, state)

def test_older_format(saved):
    k,state = saved
    torch.save({**state, 'format':'fastai_progresize checkpoint 2'}, 'models/a.ckpt')
    with pytest.raises(ValueError, match='a.ckpt was written by another version of fastai_progresize'):
        train(k, checkpoint='a', resume=True)

# large data, and systems with less

def test_large_data(tmp_path):
    "A checkpoint has a hash of the items and labels, not their names; of other rows or labels it is another run"
    for i in range(6): Image.fromarray(pixels(i)).save(tmp_path/f'{i}.jpg')
    df = pd.DataFrame(dict(file=[f'{i%6}.jpg' for i in range(20_000)], label=[f'{i%4}' for i in range(20_000)]))
    df['valid'] = df.index%5==0
    class Now(Callback):
        def before_batch(self): raise KeyboardInterrupt
    def _make(df):
        dls = ImageDataLoaders.from_df(df, tmp_path, valid_col='valid', item_tfms=Resize(16), bs=8, num_workers=0)
        return Learner(dls, simple(), loss_func=CrossEntropyLossFlat())
    k = kind(lambda: _make(df), Now)
    train(k, 0, checkpoint='a')
    assert Path('models/a.ckpt').stat().st_size<100_000
    other = df.copy()
    other.loc[7777,'label'] = '0'
    with pytest.raises(ValueError, match='has changed'):
        train(kind(lambda: _make(other), Now), checkpoint='a', resume=True)

@pytest.mark.parametrize('gone', [['fchmod'],['pwrite'],['fork','forkpty','register_at_fork'],['link'],['fchmod','pwrite','fork','link']])
def test_systems_with_less(monkeypatch, gone):
    for o in gone: monkeypatch.delattr(os, o)
    k = kinds['list_numbers']
    whole = train(k)
    assert resumed(k, 2, whole)[0] is True and Path('models/a2.ckpt.before').exists()
