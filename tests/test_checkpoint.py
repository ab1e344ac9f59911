"A run that is stopped anywhere and resumed is the run that was never stopped"
import io, multiprocessing, shutil, signal
import pytest
from helpers import *

def times_apart(df): return df.drop(columns=['seconds','loading','images/s'], errors='ignore')
def rows(file):
    "The rows of a CSV without the time"
    return [','.join(o.split(',')[:-1]) for o in Path(file).read_text().splitlines()]

def same_state(a, b):
    "Do the optimizers keep the same of two parameters?"
    return a.keys()==b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)

@pytest.mark.parametrize('fit', ('fine_tune','fit_one_cycle','single_cycle'))
@pytest.mark.parametrize('groups,frozen,workers', ((1,False,0),(2,True,0),(2,False,2)))
@pytest.mark.every(4)
def test_resumed(path, tmp_path, fit, groups, frozen, workers):
    "Stopped in every epoch in turn: weights, optimizer, history, CSV and curves as if never stopped"
    def learner(folder):
        cbs = [CSVLogger(), SaveModelCallback(monitor='accuracy'), EarlyStoppingCallback(patience=20)]
        return new_learner(path, groups, cbs, folder, workers, frozen=frozen)
    whole = learner(tmp_path/'whole')
    run(whole, fit)
    n,stops = len(whole.stage_history),0
    while True:
        part = learner(tmp_path/'part')
        try: run(part, fit, checkpoint='a', resume=True, cbs=StopAt(4))      # an epoch has 3 batches
        except KeyboardInterrupt: stops += 1
        else: break
    assert stops==n-1
    assert same_weights(weights(part), weights(whole))
    pd.testing.assert_frame_equal(times_apart(part.stage_history), times_apart(whole.stage_history))
    assert rows(tmp_path/'part/history.csv')==rows(tmp_path/'whole/history.csv')
    a,b = part.recorder,whole.recorder
    assert a.lrs==b.lrs and list(map(float, a.losses))==list(map(float, b.losses))
    assert a.iters==b.iters and a.values==b.values and a.hps==b.hps
    for x,y in zip(part.opt.all_params(), whole.opt.all_params()): assert same_state(x[2], y[2])
    assert part.save_model.best==whole.save_model.best
    assert part.early_stopping.wait==whole.early_stopping.wait
    grads = [[p.requires_grad for p in o.model.parameters()] for o in (part,whole)]
    assert grads[0]==grads[1]
    assert part.dls.train.after_item.fs[0].size==whole.dls.train.after_item.fs[0].size

def train(path, folder, groups, frozen, fit, workers, half_write=0):
    "In a process of its own; with `half_write`, it is killed while it writes its so many-th checkpoint"
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)        # of the workers, which then end with their parent
    save,calls = torch.save,[]
    def half_save(state, f):
        calls.append(f)
        if len(calls)!=half_write: return save(state, f)
        whole = io.BytesIO()
        save(state, whole)
        f.write(whole.getvalue()[:len(whole.getvalue())//2])
        f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if half_write: torch.save = half_save
    learn = new_learner(path, groups, [CSVLogger()], folder, workers, frozen=frozen)
    (folder/'began').touch()
    run(learn, fit, checkpoint='a', resume=True)
    torch.save = save
    end = weights(learn),times_apart(learn.stage_history).to_dict('list'),rows(folder/'history.csv')
    save(end, folder/'end.tmp')
    os.replace(folder/'end.tmp', folder/'end')

@pytest.fixture(scope='module')
def processes():
    "Start processes that have fastai imported already"
    old = os.environ.get('PYTHONPATH', '')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(Path(__file__).parent), old])
    ctx = multiprocessing.get_context('forkserver')
    ctx.set_forkserver_preload(['test_checkpoint'])
    yield ctx
    os.environ['PYTHONPATH'] = old

class Training:
    "Training of a `case` in processes of its own"
    def __init__(self, processes, path, case): self.processes,self.path,self.case = processes,path,case

    def start(self, folder, **kwargs):
        folder.mkdir(exist_ok=True)
        p = self.processes.Process(target=train, args=(self.path, folder, *self.case), kwargs=kwargs)
        p.start()
        return p

    def end(self, folder):
        "What it ends with, and the seconds that it took"
        p = self.start(folder)
        p.join()
        assert p.exitcode==0, (self.case, p.exitcode)
        seconds = (folder/'end').stat().st_mtime - (folder/'began').stat().st_mtime
        return torch.load(folder/'end', weights_only=False),seconds

    def kill(self, folder, half_write, after):
        "Was it killed, in a write or some seconds `after` it began?"
        p = self.start(folder, half_write=half_write)
        if not half_write:
            while not (folder/'began').exists(): time.sleep(.001)
            p.join(after)
            p.kill()
        p.join()
        return p.exitcode==-signal.SIGKILL

def epochs_saved(file): return torch.load(file, weights_only=True)['epoch'] if file.exists() else 0

def killed_and_resumed(processes, path, tmp_path, cases, rng):
    "Of each case a run that is never stopped, one that is killed, and that one resumed"
    whole,kills = {},[]
    for i,(case,half_write) in enumerate(cases):
        training,folder = Training(processes, path, case),tmp_path/f'killed{i}'
        if case not in whole: whole[case] = training.end(tmp_path/f'whole{i}')
        want,seconds = whole[case]
        moment = rng.uniform(.1, 1)*seconds
        kills.append(training.kill(folder, half_write, moment))
        saved = epochs_saved(folder/'models/a.ckpt')
        got,_ = training.end(folder)
        assert same_weights(got[0], want[0]) and got[1:]==want[1:], (case, half_write, moment, saved)
        when = 'in a write' if half_write else f'after {moment:.2f} s'
        print(f"{case}, {when}: killed={kills[-1]}, {saved} epochs saved, bit-equal")
    return kills

@pytest.fixture
def rng():
    "Of kills: to repeat one, put its seed here"
    seed = random.randrange(10**6)
    print(f'kills with the seed {seed}')
    return random.Random(seed)

fits = ('fine_tune','fit_one_cycle','single_cycle')
models = ((1,False),(2,False),(2,True))
all_cases = [((*model,fit,workers),0) for model in models for fit in fits for workers in (0,2)]

def test_killed(processes, path, tmp_path, rng):
    cases = [(rng.choice(all_cases)[0],0), ((2,False,'fine_tune',2),0), ((2,True,'fine_tune',0),2)]
    assert killed_and_resumed(processes, path, tmp_path, cases, rng)[-1]

@pytest.mark.long
def test_killed_anywhere(processes, path, tmp_path, rng):
    "20 kills, in all kinds of runs, two of them while a checkpoint is written"
    in_writes = [((1,False,'single_cycle',2),3), ((2,False,'fine_tune',0),4)]
    kills = killed_and_resumed(processes, path, tmp_path, all_cases+in_writes, rng)
    assert len(kills)==20 and sum(kills)>=15      # some may have ended before

@pytest.fixture
def stopped(path, tmp_path):
    "A Learner that was stopped in its second epoch"
    learn = new_learner(path, 2, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', cbs=StopAt(4))
    return learn

def test_how_to_resume(path, tmp_path, capsys):
    learn = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', resume=True, cbs=StopAt(4))
    out = capsys.readouterr().out
    assert f"There is no checkpoint in {tmp_path}/models/a.ckpt yet: starting from the beginning" in out
    assert f"Interrupted in epoch 1: the same call with resume=True continues from {tmp_path}/models/a.ckpt" in out
    assert len(learn.stage_history)==1 and learn.dls.train.bs==8

@pytest.mark.parametrize('change,part', [
    (dict(n_epoch=[1,1,1]), 'stages[1] was 32 px, 3 epochs'),
    (dict(sizes=(24,32,40)), 'stages[2] was 48 px'),
    (dict(lr_max=1e-4), 'lr'),
    (dict(pct_start=.5), 'phases[0]'),
    (dict(aug=(.5,1.)), 'aug=0.5'),
    (dict(wd=.3), 'wd was None, is 0.3'),
    (dict(valid_size='final'), 'valid_size was None, is 48'),
    (dict(fast=False), 'fast was {}, is False'),
    (dict(cbs=[EarlyStoppingCallback(patience=9),ReduceLROnPlateau(patience=9)], valid_size='stage'), 'cbs was'),
])
@pytest.mark.every(2)
def test_another_plan(path, tmp_path, stopped, change, part):
    learn = new_learner(path, 2, folder=tmp_path)
    before,file = weights(learn),(tmp_path/'models/a.ckpt').read_bytes()
    args = {**three_sizes, 'fit':'fine_tune', 'checkpoint':'a', 'resume':True, **change}
    with pytest.raises(ValueError) as e, learn.no_bar(): learn.fit_progressive(**args)
    for o in ('a.ckpt is of another run: ', part, 'another name as `checkpoint=`'): assert o in str(e.value)
    assert same_weights(before, weights(learn)) and (tmp_path/'models/a.ckpt').read_bytes()==file

def test_another_model_or_files(path, tmp_path, stopped):
    learn = new_learner(path, 2, folder=tmp_path)
    learn.model[1][2] = nn.Linear(16, 12)
    with pytest.raises(ValueError, match=r'model 1\.2\.weight was \(10, 16\), is \(12, 16\)'):
        run(learn, checkpoint='a', resume=True)
    learn = new_learner(path, 2, folder=tmp_path, opt_func=SGD)
    with pytest.raises(ValueError, match='opt_func was Adam, is SGD'): run(learn, checkpoint='a', resume=True)
    other = tmp_path/'images'
    shutil.copytree(path, other)
    gone = get_image_files(other/'train').sorted()[0]
    shutil.move(gone, gone.with_name('new.jpg'))
    learn = new_learner(other, 2, folder=tmp_path)
    with pytest.raises(ValueError) as e: run(learn, checkpoint='a', resume=True)
    assert 'the train items have changed: 24 were, 24 are' in str(e.value)

def test_elsewhere(path, tmp_path, stopped):
    "The images may have moved"
    whole = new_learner(path, 2)
    run(whole)
    shutil.copytree(path, tmp_path/'images')
    learn = new_learner(tmp_path/'images', 2, folder=tmp_path)
    run(learn, checkpoint='a', resume=True)
    assert same_weights(weights(learn), weights(whole))

def test_not_overwritten(path, tmp_path, stopped):
    "A run that has not ended, or a file of another kind, is not written over; one that has ended is"
    learn = new_learner(path, 2, folder=tmp_path)
    says = 'holds the first 1 of 6 epochs of a run that has not ended: pass resume=True'
    with pytest.raises(ValueError, match=says): run(learn, checkpoint='a')
    run(learn, checkpoint='a', resume=True)
    run(learn, checkpoint='a')
    learn.save('b', with_opt=False)
    file = (tmp_path/'models/b.pth').rename(tmp_path/'models/b.ckpt')
    for resume in (False,True):
        before = file.read_bytes()
        says = 'b.ckpt is not a checkpoint of `fit_progressive`. It was not changed'
        with pytest.raises(ValueError, match=says): run(learn, checkpoint='b', resume=resume)
        assert file.read_bytes()==before

def test_ended(path, tmp_path):
    "To resume a run that has ended gives what it ended with"
    cbs = lambda: [SaveModelCallback(monitor='accuracy'), CSVLogger()]
    learn = new_learner(path, 1, cbs(), tmp_path)
    run(learn, checkpoint='a')
    again = new_learner(path, 1, cbs(), tmp_path)
    run(again, checkpoint='a', resume=True)
    assert same_weights(weights(learn), weights(again)) and again.dls.train.bs==8
    pd.testing.assert_frame_equal(again.stage_history, learn.stage_history)
    assert again.recorder.values==learn.recorder.values
    assert len((tmp_path/'history.csv').read_text().splitlines())==7

def test_stopped_early(path, tmp_path):
    "Early stopping ends the run, also when it is resumed"
    early = lambda: [EarlyStoppingCallback(monitor='accuracy', min_delta=2, patience=2)]
    learn = new_learner(path, 1, folder=tmp_path)
    run(learn, checkpoint='a', cbs=early())
    assert len(learn.stage_history)==3
    again = new_learner(path, 1, folder=tmp_path)
    run(again, checkpoint='a', resume=True, cbs=early())
    assert same_weights(weights(learn), weights(again)) and len(again.stage_history)==3

class Evil:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir,(str(self.file),)

def test_malicious(path, tmp_path):
    "Code in a checkpoint is not run"
    (tmp_path/'models').mkdir()
    for place in ({'format': 'fastai_progresize checkpoint 1', 'model': Evil(tmp_path/'ran')}, Evil(tmp_path/'ran')):
        torch.save(place, tmp_path/'models/a.ckpt')
        for resume in (False,True):
            learn = new_learner(path, 1, folder=tmp_path)
            with pytest.raises(ValueError, match='holds more than plain values'):
                run(learn, checkpoint='a', resume=resume)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('share', (0,.1,.5,.999))
def test_truncated(path, tmp_path, stopped, share):
    file = tmp_path/'models/a.ckpt'
    cut = file.read_bytes()[:int(share*file.stat().st_size)]
    file.write_bytes(cut)
    learn = new_learner(path, 2, folder=tmp_path)
    with pytest.raises(ValueError, match='a.ckpt cannot be read as a checkpoint: it is damaged'):
        run(learn, checkpoint='a', resume=True)
    assert file.read_bytes()==cut

def test_disk_full(path, tmp_path, monkeypatch):
    "Training continues, and the previous checkpoint is kept"
    save,calls = torch.save,[]
    def full(state, f):
        calls.append(f)
        if len(calls)==3:      # one is of the beginning
            f.write(b'half')
            raise OSError(28, 'No space left on device')
        save(state, f)
    monkeypatch.setattr('fastai_progresize.resume.checkpoint.torch.save', full)
    learn,seen = new_learner(path, 1, folder=tmp_path),[]
    class Look(Callback):
        order = 10_000
        def after_epoch(self): seen.append(torch.load(tmp_path/'models/a.ckpt', weights_only=True)['epoch'])
    says = 'checkpoint after 2 epochs could not be written .* MiB are free.* training continues'
    with pytest.warns(UserWarning, match=says):
        run(learn, checkpoint='a', cbs=Look())
    assert seen==[0,1,1,3,4,5] and read_checkpoint(tmp_path/'models/a.ckpt')['epoch']==6
    assert {o.name for o in (tmp_path/'models').ls()}=={'a.ckpt','a.ckpt.before'}

def test_neutral(path, tmp_path):
    "A run that saves has the weights of one that does not"
    a = new_learner(path, 2)
    run(a)
    b = new_learner(path, 2, folder=tmp_path)
    run(b, checkpoint='a')
    assert same_weights(weights(a), weights(b))

def test_accumulated(path, tmp_path):
    "Gradients that wait for more are kept"
    def learner(): return new_learner(path, 1, [GradientAccumulation(16)], tmp_path)     # 24 images per epoch
    whole = learner()
    run(whole)
    with pytest.raises(KeyboardInterrupt): run(learner(), checkpoint='a', cbs=StopAt(7))
    part = learner()
    run(part, checkpoint='a', resume=True)
    assert same_weights(weights(part), weights(whole))

def test_graph(path, tmp_path):
    "`ShowGraphCallback` draws the whole run"
    class Mbar(Callback):
        order,graphs = 66,[]
        def before_fit(self):
            self.learn.progress.mbar.update_graph = lambda g,*a: self.graphs.append([len(o[0]) for o in g])
    def fit(**kwargs):
        learn = new_learner(path, 1, [Mbar(),ShowGraphCallback()], tmp_path)
        learn.fit_progressive(**three_sizes, fit='fine_tune', checkpoint='a', **kwargs)
    with pytest.raises(KeyboardInterrupt): fit(cbs=StopAt(7))
    fit(resume=True)
    assert Mbar.graphs==[[3*i,i] for i in range(1, 7)]

def test_own_state(path, tmp_path):
    "A callback with `state_dict` continues from it"
    class Counter(Callback):
        n = 0
        def after_batch(self): self.n += self.training
        def state_dict(self): return dict(n=self.n)
        def load_state_dict(self, state): self.n = state['n']
    learn = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', cbs=[StopAt(7),Counter()])
    c = Counter()
    run(new_learner(path, 1, folder=tmp_path), checkpoint='a', resume=True, cbs=c)
    assert c.n==18

def test_arguments(path, tmp_path):
    learn = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(ValueError, match='resume=True: pass the `checkpoint`'): run(learn, resume=True)
    with pytest.raises(TypeError, match='no argument `start_epoch`: pass `checkpoint=` and `resume=True`'):
        run(learn, checkpoint='a', resume=True, start_epoch=1)
