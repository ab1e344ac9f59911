"Runs that are attacked: full disks, damaged files, other settings, state where nobody looks"
import resource, shutil, zipfile
import pytest
from datetime import datetime
from helpers import *
from test_checkpoint import times_apart

def stopped_and_resumed(new, n=7, **kwargs):
    "A run that is stopped at its `n`th batch, and continued by another Learner"
    with pytest.raises(KeyboardInterrupt): run(new(), checkpoint='a', cbs=StopAt(n), **kwargs)
    learn = new()
    run(learn, checkpoint='a', resume=True, cbs=StopAt(10**6), **kwargs)
    return learn

def same_run(new, new_whole, **kwargs):
    "It ends like an uninterrupted run"
    whole = new_whole()
    run(whole, cbs=StopAt(10**6), **kwargs)
    part = stopped_and_resumed(new, **kwargs)
    assert same_weights(weights(part), weights(whole))
    pd.testing.assert_frame_equal(times_apart(part.stage_history), times_apart(whole.stage_history))
    return part,whole

def maker(path, tmp_path, cbs=list, groups=1, **kwargs):
    "How to make a Learner, in a folder for the run that is stopped, and in another"
    def _in(folder): return lambda: new_learner(path, groups, cbs(), tmp_path/folder, **kwargs)
    return _in('part'),_in('whole')

# a full disk

class SmallFiles(Callback):
    "From an epoch on, files of over 1,000 bytes cannot be written"
    order = 900
    def __init__(self, epoch): self.at = epoch
    def after_epoch(self):
        self.was = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.epoch==self.at: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, self.was[1]))
    def before_epoch(self):
        if hasattr(self, 'was'): resource.setrlimit(resource.RLIMIT_FSIZE, self.was)

def test_files_too_large(path, tmp_path):
    learn = new_learner(path, 1, folder=tmp_path)
    says = r'after 2 epochs could not be written .*a.ckpt \(.*MiB are free.*training continues'
    with pytest.warns(UserWarning, match=says):
        run(learn, checkpoint='a', check=False, cbs=[SmallFiles(1),StopAt(13, CancelFitException)])
    assert read_checkpoint(tmp_path/'models/a.ckpt')['epoch']==4
    assert {o.name for o in (tmp_path/'models').ls()}=={'a.ckpt','a.ckpt.before'}

@pytest.fixture
def small_disk(tmp_path):
    d = tmp_path/'small'
    d.mkdir()
    made = subprocess.run(['mount','-t','tmpfs','-o','size=160k','tmpfs',d], capture_output=True)
    if made.returncode: pytest.skip('no tmpfs can be mounted here')
    yield d
    subprocess.run(['umount',d])

def test_full_disk(path, small_disk):
    "From some epoch on nothing can be written: training continues, and what is there is whole"
    learn = new_learner(path, 2)
    with pytest.warns(UserWarning, match='could not be written') as found: run(learn, checkpoint=small_disk/'a')
    assert len(learn.stage_history)==6 and len(found)<6
    saved = read_checkpoint(small_disk/'a.ckpt')['epoch']
    assert 0<=saved<6 and {o.name for o in small_disk.ls()}<={'a.ckpt','a.ckpt.before'}
    (small_disk/'full').write_bytes(bytes(20_000))
    (small_disk/'b').mkdir()
    with pytest.raises(ValueError, match='after 0 epochs could not be written'):
        run(new_learner(path, 2), checkpoint=small_disk/'b'/'b')

# damaged files

def is_same(a, b):
    if isinstance(a, dict): return a.keys()==b.keys() and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(is_same, a, b))
    return equals(a, b) if isinstance(a, Tensor) else a==b or a!=a

def equals(a, b): return isinstance(b, Tensor) and a.dtype==b.dtype and torch.equal(a, b)

@pytest.fixture(scope='module')
def saved(path, tmp_path_factory):
    "The checkpoint of a run that was stopped in its third epoch"
    folder = tmp_path_factory.mktemp('saved')
    with pytest.raises(KeyboardInterrupt): run(new_learner(path, 2, folder=folder), checkpoint='a', cbs=StopAt(7))
    return folder/'models'/'a.ckpt'

def loads_changed(file, flips, to):
    "Of `flips` flipped bits, those after which `file` loads otherwise"
    own,data,rng,bad = read_checkpoint(file),file.read_bytes(),random.Random(1),[]
    for _ in range(flips):
        i,bit = rng.randrange(len(data)),1<<rng.randrange(8)
        to.write_bytes(data[:i] + bytes([data[i]^bit]) + data[i+1:])
        try: res = read_checkpoint(to)
        except ValueError: continue
        if not is_same(own, res): bad.append((i,bit))
    return bad

def test_flipped_bits(saved, tmp_path): assert loads_changed(saved, 60, tmp_path/'a.ckpt')==[]

@pytest.mark.long
def test_many_flipped_bits(saved, tmp_path, count):
    bad = loads_changed(saved, 500, tmp_path/'a.ckpt')
    count('flipped bits that are found, or change nothing', 500, 500-len(bad))
    assert bad==[]

def test_the_one_before(path, saved, tmp_path, capsys):
    "Of a damaged checkpoint the one before is offered; once it is removed, that one is used, and named"
    shutil.copytree(saved.parent, tmp_path/'models')
    file = tmp_path/'models'/'a.ckpt'
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(ValueError, match="a.ckpt cannot be read .*damaged.*a.ckpt.before: remove a.ckpt to continue"):
        run(new_learner(path, 2, folder=tmp_path), checkpoint='a', resume=True)
    whole = new_learner(path, 2)
    run(whole)
    file.unlink()
    learn = new_learner(path, 2, folder=tmp_path)
    run(learn, checkpoint='a', resume=True)
    assert f"is missing: continuing from the previous epoch's checkpoint, {file}.before" in capsys.readouterr().out
    assert same_weights(weights(learn), weights(whole))

def test_removed_to_start_again(path, saved, tmp_path):
    "As the error says"
    shutil.copytree(saved.parent, tmp_path/'models')
    with pytest.raises(ValueError, match='or remove it to start again'):
        run(new_learner(path, 2, folder=tmp_path), checkpoint='a')
    (tmp_path/'models'/'a.ckpt').unlink()
    learn = new_learner(path, 2, folder=tmp_path)
    run(learn, checkpoint='a')
    assert len(learn.stage_history)==6

def test_names_of_runs(path, tmp_path):
    "What is called like another run's earlier file is a run of its own"
    for name in ('x','x.before','x.ckpt.before'):
        with pytest.raises(KeyboardInterrupt):
            run(new_learner(path, 2, folder=tmp_path), checkpoint=name, resume=True, cbs=StopAt(10))
    for name in ('x','x.before','x.ckpt.before'):
        assert read_checkpoint(tmp_path/'models'/f'{name}.ckpt')['epoch']==3
        assert read_checkpoint(tmp_path/'models'/f'{name}.ckpt.before')['epoch']==2

def test_a_file_that_grows(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.ckpt', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a/data/0', bytes(2**26))
    with pytest.raises(ValueError, match='it is compressed'): read_checkpoint(tmp_path/'a.ckpt')

def _without(k): return lambda s: s.pop(k)
def _with(k, v): return lambda s: s.update({k: v})
def _deep(*ks, v):
    def _set(s):
        for k in ks[:-1]: s = s[k]
        s[ks[-1]] = v
    return _set
crafted = [*(_without(k) for k in ('epoch','model','opt','grads','cbs','random','history','plan','leaves','requires_grad',
                                        'lost','csv')),
           *(_with(k, v) for k in ('model','opt','grads','cbs','random','history','leaves','requires_grad','frozen_idx')
             for v in (None,3,'x',[1],{'a':1})),
           _deep('model', '1.2.weight', v=torch.zeros(3)), _deep('model', '1.2.weight', v=7), _deep('epoch', v='x'),
           _deep('opt', 'state', v=[{}]), _deep('opt', 'hypers', v=[{}]), _deep('random', 0, 'others', v=[1,2]),
           _deep('random', 0, 'global_state', v={}), _deep('epoch', v=-3), _deep('epoch', v=99)]

@pytest.mark.parametrize('i', range(0, len(crafted), 5))
def test_crafted(path, saved, tmp_path, i):
    "Whatever a checkpoint holds: the run continues, or a `ValueError` before anything has changed"
    for change in crafted[i:i+5]:
        state = read_checkpoint(saved)
        change(state)
        (tmp_path/'models').mkdir(exist_ok=True)
        torch.save(state, tmp_path/'models'/'a.ckpt')
        learn = new_learner(path, 2, folder=tmp_path)
        before = weights(learn)
        try: run(learn, checkpoint='a', resume=True, check=False)
        except ValueError: assert same_weights(before, weights(learn))
        (tmp_path/'models'/'a.before.ckpt').unlink(missing_ok=True)

# what can be known before the first batch

@pytest.mark.parametrize('name', ['a\0b', 'x'*300, '/proc/nothing/a', '/dev/null/a'])
def test_places(path, tmp_path, name):
    learn = new_learner(path, 1, folder=tmp_path)
    before = weights(learn)
    says = 'No checkpoint can be written to .*pass a file path'
    with pytest.raises(ValueError, match=says): run(learn, checkpoint=name)
    assert same_weights(before, weights(learn)) and learn.opt is None

def test_models_is_a_file(path, tmp_path):
    (tmp_path/'models').touch()
    with pytest.raises(ValueError, match='No checkpoint can be written'):
        run(new_learner(path, 1, folder=tmp_path), checkpoint='a')

def test_no_folder_beside_the_data(path, tmp_path):
    learn = new_learner(path, 1, folder=tmp_path/'data')
    run(learn, checkpoint=tmp_path/'results'/'a')
    assert not (tmp_path/'data'/'models').exists() and (tmp_path/'results'/'a.ckpt').exists()

class Holds(Callback):
    "Keeps what it was given"
    def __init__(self, o): self.o = o
    def state_dict(self): return dict(o=self.o)
    def load_state_dict(self, state): self.o = state['o']

things = [np.arange(3.), {1,2}, b'bytes', pd.Timestamp('2024-02-29'), datetime(2024, 2, 29), frozenset([1]),
          np.float32(2), collections.deque([1,2]), np.array(['a','b'])]

@pytest.mark.parametrize('o', things[:-1], ids=lambda o: type(o).__name__)
@pytest.mark.every(2)
def test_kept(path, tmp_path, o):
    with pytest.raises(KeyboardInterrupt):
        run(new_learner(path, 1, [Holds(o)], tmp_path), checkpoint='a', cbs=StopAt(4))
    cb = Holds(None)
    run(new_learner(path, 1, [cb], tmp_path), checkpoint='a', resume=True, cbs=StopAt(10**6))
    assert np.array_equal(cb.o, o) if isinstance(o, ndarray) else cb.o==o
    if not isinstance(o, np.generic): assert type(cb.o) is type(o)

@pytest.mark.parametrize('o', [object(), things[-1], Path], ids=['object','texts','class'])
def test_not_kept(path, tmp_path, o):
    learn = new_learner(path, 1, [Holds(o)], tmp_path)
    before = weights(learn)
    with pytest.raises(ValueError, match='^A .* cannot be kept in a checkpoint'): run(learn, checkpoint='a')
    assert same_weights(before, weights(learn)) and learn.opt is None

def test_metrics_that_are_arrays(path, tmp_path):
    new = maker(path, tmp_path, metrics=[accuracy, F1Score(average=None)])
    part,whole = same_run(*new)
    assert [len(o) for o in part.stage_history.f1_score]==[10]*6

def test_removed_csv(path, tmp_path):
    "It is written again, whole"
    class Remove(Callback):
        def before_epoch(self):
            if self.epoch==2: (self.path/'history.csv').unlink()
    learn = new_learner(path, 1, [CSVLogger(),Remove()], tmp_path)
    run(learn, checkpoint='a')
    assert len((tmp_path/'history.csv').read_text().splitlines())==7

def test_removed_best(path, tmp_path):
    class Remove(Callback):
        def before_epoch(self):
            if self.epoch==5: (self.path/'models'/'model.pth').unlink(missing_ok=True)
    best = lambda: SaveModelCallback(monitor='accuracy', min_delta=.9)
    with pytest.warns(UserWarning, match='model.pth, is missing: the last weights are saved instead'):
        run(new_learner(path, 1, [best(),Remove()], tmp_path), checkpoint='a')
    with pytest.raises(KeyboardInterrupt):
        run(new_learner(path, 1, [best()], tmp_path), checkpoint='b', cbs=StopAt(7))
    (tmp_path/'models'/'model.pth').unlink()
    with pytest.warns(UserWarning, match='model.pth, is missing: the best of the remaining epochs'):
        run(new_learner(path, 1, [best()], tmp_path), checkpoint='b', resume=True)
    assert (tmp_path/'models'/'model.pth').exists()

# the file is ours

@pytest.mark.parametrize('name', ['a.ckpt','a.ckpt.before'])
def test_planted_links(path, tmp_path, name):
    "A link is refused, neither followed nor replaced; so is a pipe"
    (tmp_path/'models').mkdir()
    (tmp_path/'mine').write_text('mine')
    (tmp_path/'models'/name).symlink_to(tmp_path/'mine')
    learn = new_learner(path, 1, folder=tmp_path)
    for resume in (False,True):
        with pytest.raises(ValueError, match=f'{name} is a link to .*mine: remove it, or pass another name'):
            run(learn, checkpoint='a', resume=resume)
    assert (tmp_path/'mine').read_text()=='mine' and (tmp_path/'models'/name).is_symlink()
    (tmp_path/'models'/name).unlink()
    os.mkfifo(tmp_path/'models'/name)
    with pytest.raises(ValueError, match=f'{name} is not a regular file'): run(learn, checkpoint='a', resume=True)
    with pytest.raises(ValueError, match='it is not a regular file'): read_checkpoint(tmp_path/'models'/name)

def test_leftovers(path, tmp_path):
    (tmp_path/'models').mkdir()
    (tmp_path/'mine').write_text('mine')
    (tmp_path/'models'/'a.ckpt.tmp').symlink_to(tmp_path/'mine')
    (tmp_path/'models'/'.a.ckpt.xtmp').write_text('left by a run that was killed')
    run(new_learner(path, 1, folder=tmp_path), checkpoint='a')
    assert (tmp_path/'mine').read_text()=='mine' and not (tmp_path/'models'/'.a.ckpt.xtmp').exists()

hold = """import sys, time
from pathlib import Path
from fastai_progresize.resume.checkpoint import run_lock
with run_lock(Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)"""

def test_two_runs(path, tmp_path):
    "Of one name, the second is refused while the first lives"
    file = tmp_path/'models'/'a.ckpt'
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', hold, str(file)], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline()=='held\n'
    try:
        learn = new_learner(path, 1, folder=tmp_path)
        with pytest.raises(ValueError, match=f'Another run saves to .*a.ckpt, process {p.pid} on '):
            run(learn, checkpoint='a')
    finally:
        p.kill()
        p.wait()
    run(learn, checkpoint='a')
    assert not list((tmp_path/'models').glob('.*'))

# to the same bits

class Noise(Callback):
    "Draws random numbers after everything else of an epoch"
    order = 500
    def after_epoch(self): torch.rand(1), random.random()

class LooksAtIter(Callback):
    "What it does depends on the batches so far"
    def before_step(self):
        if self.train_iter%2: self.learn.opt.zero_grad()

class CountingLoss(nn.Module):
    "A loss that counts, with a running mean that is no parameter"
    def __init__(self):
        super().__init__()
        self.n,self.mean = 0,torch.zeros(1)
        self.register_buffer('seen', torch.zeros(1), persistent=False)
    def forward(self, p, y):
        if p.requires_grad: self.n += 1
        self.mean = self.mean*.9 + p.detach().abs().mean().cpu()*.1
        self.seen += 1
        return F.cross_entropy(p, TensorBase(y))*(1+.01*self.n+self.mean.item()+.01*self.seen.item())

class CountingModel(nn.Module):
    "Weighs its output by what its `state_dict` does not have"
    def __init__(self):
        super().__init__()
        self.body,self.n = small_model(),0
        self.register_buffer('mean', torch.zeros(1), persistent=False)
    def forward(self, x):
        self.n += 1
        self.mean += .01
        return self.body(x)*(1+self.n/100+self.mean)

class OwnRandom(Transform):
    "With a generator of its own"
    order = 50
    def __init__(self):
        self.rng,self.gen,self.np = random.Random(1),torch.Generator().manual_seed(1),np.random.default_rng(1)
    def encodes(self, x:TensorImage):
        return x*(.5+self.rng.random()+self.np.random())+torch.rand(1, generator=self.gen).to(x.device)

kinds = dict(
    noise      = dict(cbs=lambda: [Noise()]),
    train_iter = dict(cbs=lambda: [LooksAtIter()]),
    loss       = dict(loss_func=CountingLoss),
    model      = dict(model=CountingModel),
)

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.every(2)
def test_kinds(path, tmp_path, kind):
    kw = {'cbs':list, **kinds[kind]}
    if 'loss_func' in kw:
        def _in(folder): return lambda: new_learner(path, 1, [], tmp_path/folder, loss_func=CountingLoss())
        return same_run(_in('part'), _in('whole'))
    same_run(*maker(path, tmp_path, **kw))

def test_transforms_with_generators(path, tmp_path):
    def _in(folder):
        def _new():
            learn = new_learner(path, 1, folder=tmp_path/folder)
            learn.dls.train.after_batch.add(OwnRandom())
            return learn
        return _new
    same_run(_in('part'), _in('whole'))

def test_torch_loaders_with_generators(tmp_path):
    def _dls(size, bs):
        xs,ys = torch.rand(36, 3, size, size, generator=torch.Generator().manual_seed(1)),torch.arange(36)%10
        gen,items = torch.Generator().manual_seed(size),list(zip(xs, ys))
        dls = DataLoaders(*(torch.utils.data.DataLoader(o, batch_size=bs, shuffle=True, generator=gen)
                            for o in (items[:24],items[24:])))
        dls.path = tmp_path
        return dls
    def _in(folder):
        def _new():
            set_seed(3)
            learn = Learner(_dls(48, 8), small_model(), loss_func=nn.CrossEntropyLoss(), path=tmp_path/folder)
            return learn
        return _new
    same_run(_in('part'), _in('whole'), get_dls=_dls, bs=8)

def test_rerun_of_a_cell(path, tmp_path):
    "Interrupted in its first epoch and called again, by the same Learner: from the weights that it began with"
    whole = new_learner(path, 1)
    run(whole)
    learn = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', resume=True, cbs=StopAt(2))
    assert not same_weights(weights(learn), weights(new_learner(path, 1)))
    run(learn, checkpoint='a', resume=True, cbs=StopAt(10**6))
    assert same_weights(weights(learn), weights(whole))

class Extra(nn.Module):
    "With a state that is no tensor"
    def __init__(self):
        super().__init__()
        self.body,self.steps = small_model(),dict(n=0)
    def forward(self, x): return self.body(x)
    def get_extra_state(self): return self.steps
    def set_extra_state(self, state): self.steps = state

class MakeOpt:
    "Its `repr` holds an address"
    def __call__(self, params, **kwargs): return Adam(params, **kwargs)

def mnasnet(): return models.mnasnet0_5(num_classes=10)

@pytest.mark.parametrize('kw', [dict(model=Extra), dict(opt_func=MakeOpt()), dict(model=mnasnet)],
                         ids=['extra','opt','mnasnet'])
@pytest.mark.every(2)
def test_can_be_resumed(path, tmp_path, kw): same_run(*maker(path, tmp_path, **kw))

# another run

def other_splitter(m): return L(m[0][0], m[0][1], m[1]).map(params)

changes = dict(
    splitter = (dict(splitter=other_splitter), 'groups was '),
    loss     = (dict(loss_func=LabelSmoothingCrossEntropyFlat()), 'loss was CrossEntropyLossFlat'),
    weight   = (dict(loss_func=CrossEntropyLossFlat(weight=torch.arange(10.))), 'loss was '),
    opt_args = (dict(opt_func=partial(Adam, mom=.8)), 'opt_func was Adam, is Adam(mom=0.8)'),
    wd       = (dict(wd=.3), 'learner wd was None, is 0.3'),
    moms     = (dict(moms=(.9,.8,.9)), 'learner moms was '),
    workers  = (dict(num_workers=1), 'train num_workers was 0, is 1'),
)

@pytest.mark.parametrize('k', changes)
def test_changes(path, saved, tmp_path, k):
    kw,says = changes[k]
    shutil.copytree(saved.parent, tmp_path/'models')
    learn = new_learner(path, 2, folder=tmp_path, **({} if k=='splitter' else kw))
    if k=='splitter': learn.splitter = other_splitter
    before = weights(learn)
    with pytest.raises(ValueError, match=re.escape(says)): run(learn, checkpoint='a', resume=True)
    assert same_weights(before, weights(learn)) and learn.opt is None

def _other_data(learn, change):
    path = learn.dls.train_ds.items[0].parent.parent.parent
    if change=='tfms': learn.dls = get_dls(48, 8, path, num_workers=0, max_rotate=45.)
    items = learn.dls.train.dataset.items
    if change=='order': items.reverse()
    if change=='labels': learn.dls.train.dataset.tls[1].tfms.fs.insert(0, Transform(lambda f: items[0]))

@pytest.mark.parametrize('change,says', [('tfms', 'train tfms['), ('order', 'the order of the train items has changed'),
                                         ('labels', 'the labels of the train items has changed')])
def test_other_data(path, saved, tmp_path, change, says):
    shutil.copytree(saved.parent, tmp_path/'models')
    learn = new_learner(path, 2, folder=tmp_path)
    _other_data(learn, change)
    with pytest.raises(ValueError, match=re.escape(says)): run(learn, checkpoint='a', resume=True)

def test_weights_of_items(path, tmp_path):
    def _new(wgts):
        learn = new_learner(path, 1, folder=tmp_path)
        dblock = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label,
                           item_tfms=Resize(48), splitter=GrandparentSplitter(valid_name='val'))
        learn.dls = dblock.weighted_dataloaders(path, wgts, bs=8, num_workers=0)
        return learn
    n = len(get_image_files(path/'train'))
    with pytest.raises(KeyboardInterrupt): run(_new(np.ones(n)), checkpoint='a', cbs=StopAt(4))
    with pytest.raises(ValueError, match='train wgts was'):
        run(_new(np.arange(n)+1.), checkpoint='a', resume=True)

def test_versions(path, saved, tmp_path):
    state = read_checkpoint(saved)
    state['plan']['versions']['torch'] = '1.0'
    (tmp_path/'models').mkdir()
    torch.save(state, tmp_path/'models'/'a.ckpt')
    learn = new_learner(path, 2, folder=tmp_path)
    with pytest.warns(UserWarning, match='written with other versions: versions torch was 1.0'):
        run(learn, checkpoint='a', resume=True)
    assert len(learn.stage_history)==6

# when a stage begins

def test_random_getters(path):
    "A check reads what it wants, training has the random numbers that it has without"
    def _random(f): random.random(), torch.rand(1); return f
    def _new():
        set_seed(3)
        dblock = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_x=_random, get_y=parent_label,
                           splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(48))
        return small_learner(dblock.dataloaders(path, bs=8, num_workers=0), lr=3e-3)
    a = _new()
    run(a, check=True)
    b = _new()
    run(b, check=False)
    assert same_weights(weights(a), weights(b))

norm = Normalize.from_stats(*imagenet_stats)
@pytest.mark.parametrize('what,says', [('size','The images at 32 px are 40x40'), ('bs','is above the'),
                                       ('norm','Normalize is missing')])
def test_other_data_at_the_switch(path, what, says):
    "`get_dls` that returns something else than when it was checked"
    calls = collections.Counter()
    def _dls(size, bs):
        calls[size] += 1
        later = calls[32]>1 and size==32
        dls = get_dls(40 if later and what=='size' else size, bs, path, num_workers=0,
                      stats=None if later and what=='norm' else imagenet_stats)
        if later and what=='bs': dls.train.bs = 1000
        return dls
    learn = small_learner(get_dls(48, 8, path, num_workers=0))
    own = learn.dls
    with pytest.raises(ValueError, match=says): run(learn, get_dls=_dls, bs=8)
    assert learn.dls is own and len(learn.stage_history)==1

# what an error leaves

class Fails(Callback):
    def before_fit(self): raise RuntimeError('no')

class Cancels(Callback):
    def before_fit(self): raise CancelFitException

def test_error_before_the_first_batch(path, tmp_path):
    "The optimizer, its state and its wd stay"
    learn = new_learner(path, 1, folder=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, wd=.05)
    opt,wd = learn.opt,learn.opt.hypers[0]['wd']
    for kw in (dict(reset_opt=True), dict(wd=.3), dict(wd=.2, checkpoint='a')):
        with pytest.raises(RuntimeError): run(learn, cbs=Fails(), **kw)
        assert learn.opt is opt and learn.opt.hypers[0]['wd']==wd
    run(learn, cbs=Cancels(), checkpoint='b')
