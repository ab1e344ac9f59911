"The book's experiments: each runs, equals what the book does, and continues from where it was stopped"
import pytest, shutil, subprocess
from dataclasses import replace
from helpers import *
from fastai_progresize.apps.book import book_table, plot_runs, run_experiment
from fastai_progresize.apps.experiments import _files, experiments
from fastai_progresize.samples import draw_glyph, glyph_fonts, glyph_photos

small = dict(scale=.1, epochs=1, bs=8, subset=16, num_workers=0)
others = dict(ch07_compute_matched=['ch07_compute_matched_same_pixels','ch07_compute_matched_same_seconds'],
              ch07_leak=['ch07_leak_new_splits'])

command,shell_command = partial(in_process, 'progresize-book'),partial(in_shell, 'progresize-book')

def test_list(capsys):
    "One per line, thirteen or more, with the book's figures"
    assert command()==(0,'')
    lines = capsys.readouterr().out.splitlines()
    header,*lines = lines
    assert header.split()==['experiment','about','book','book:','an','epoch']
    assert len(lines)==len(experiments)>=13
    for o,l in zip(experiments, lines): assert l.startswith(o) and o.startswith(('ch07_','ch14_'))
    line, = [o for o in lines if o.startswith('ch07_progressive ')]
    assert '86.3%' in line and '30 s at 128 px, 66 s at 224 px' in line
    assert {'ch07_compute_matched','ch07_leak'}<=set(experiments)

def folder(out, name='ch*'):
    "The folder of results of an experiment"
    return first(out.glob(name))

def check_runs(e, df, out, sizes):
    assert list(df.run.unique())==[e.name, *others.get(e.name, [])]
    mine = df[df.run==e.name]
    assert list(mine['size'].unique())==sizes
    assert df.train_loss.notna().all() and df.valid_loss.notna().all() and df.accuracy.between(0, 1).all()
    assert ('tta' in df and 0<=mine.tta.iloc[-1]<=1)==e.tta
    files = {o.name for o in folder(out).iterdir()}
    assert {'config.json','epochs.csv','results.csv','runs.png'}<=files and ('lr_find.png' in files)==e.lr_find
    assert not any('.ckpt' in o for o in files) and not list((out/'runs').glob('*.ckpt*'))
    table = pd.read_csv(folder(out)/'results.csv', index_col=0)
    assert 'std' not in table                       # of one seed
    assert list(table.index)==list(df.run.unique())
    assert table.book.iloc[0]==e.accuracy or (e.accuracy is None and np.isnan(table.book.iloc[0]))

some = ('ch07_progressive_tta','ch14_cnn')
rest = [pytest.param(o, marks=pytest.mark.long) for o in experiments if o not in some]

@pytest.mark.parametrize('name', [*some, *rest])
def test_on_samples(path, tmp_path, name):
    "Every entry, a batch or two of each of its stages"
    e = experiments[name]
    df = run_experiment(name, path, out=tmp_path, **small)
    check_runs(e, df, tmp_path, [round(s.size*.1) for s in e.stages])
    assert len(df[df.run==name])==e.scaled(epochs=1).plan.n_epoch

@pytest.mark.long
@pytest.mark.parametrize('name', experiments)
def test_whole_on_samples(tmp_path, name):
    "Every entry with all of its epochs"
    e = experiments[name]
    df = run_experiment(name, glyphs(160, 40), scale=.1, bs=16, subset=40, num_workers=0, out=tmp_path)
    check_runs(e, df, tmp_path, [round(s.size*.1) for s in e.stages])
    assert len(df[df.run==name])==e.plan.n_epoch

@pytest.fixture(scope='session')
def imagenette_like(tmp_path_factory):
    "Photographs in Imagenette's folders, of its sizes, as many as a batch of every stage needs"
    path,rng,photos = tmp_path_factory.mktemp('imagenette2'),random.Random(42),glyph_photos()
    for split,n in (('train',140),('val',30)):
        for i in range(n):
            folder = path/split/f'n{i%10:08d}'
            folder.mkdir(parents=True, exist_ok=True)
            draw_glyph('A', photos, glyph_fonts(), rng, sides=(320,420)).save(folder/f'{i}.jpg')
    return path

@pytest.mark.long
@pytest.mark.parametrize('name', experiments)
def test_full_size(imagenette_like, tmp_path, name):
    "The command at the book's sizes and batches, one epoch of each stage"
    e = experiments[name]
    few = [] if e.by_folder or max(s.bs for s in e.stages)>64 else ['--subset', 85]
    r = shell_command(name, '--path', imagenette_like, '--epochs', 1, *few, '--out', 'res', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    df = pd.read_csv(folder(tmp_path/'res')/'epochs.csv')
    assert list(df[df.run==name]['size'].unique())==[s.size for s in e.stages]
    assert df.train_loss.notna().all()

def test_equals_the_book(path, tmp_path):
    "Chapter 7's progressive training, written out with fastai alone, at an eighth of the sizes, with a fixed split"
    files = get_image_files(path).sorted()
    own = experiments['ch07_progressive'].dls(224, 8, path, num_workers=0)
    split = [[files.index(o) for o in dl.items] for dl in own.loaders]
    def book_dls(bs, size):
        dblock = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=lambda p: files, get_y=parent_label,
                           splitter=lambda o: split, item_tfms=Resize(58),
                           batch_tfms=[*aug_transforms(size=size, min_scale=0.75),
                                       Normalize.from_stats(*imagenet_stats)])
        return dblock.dataloaders(path, bs=bs, num_workers=0)
    rec = Record()
    a = Learner(book_dls(16, 16), xresnet50(n_out=10), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=rec)
    start = weights(a)
    set_seed(3)
    a.dls = book_dls(16, 16)
    a.fit_one_cycle(4, 3e-3)
    a.dls = book_dls(8, 28)
    a.fine_tune(5, 1e-3)

    e = experiments['ch07_progressive'].scaled(.125)
    e = replace(e, stages=tuple(replace(s, bs=s.bs//8) for s in e.stages))
    assert [(s.size,s.n_epoch,s.bs) for s in e.stages]==[(16,4,16),(28,5,8)] and e.presize==58
    dls = partial(e.dls, path=path, num_workers=0)
    b = e.learner(dls(16, 16))
    assert repr(b.loss_func)==repr(a.loss_func) and b.metrics[0].name==a.metrics[0].name
    assert b.opt_func is a.opt_func and b.wd==a.wd and b.moms==a.moms
    assert not same_weights(weights(b), start)
    b.model.load_state_dict(start)
    b.add_cb(Record())
    set_seed(3)
    b.fit_progressive(e.stages, lr_max=e.lr_max, fit=e.fit, get_dls=dls)
    assert rec.hypers==b.record.hypers and rec.shapes==b.record.shapes
    assert same_weights(weights(a), weights(b)) and not same_weights(weights(a), start)

def test_resnets():
    "The book's ResNets are fastai's: a stem of three convolutions, four groups of blocks, one linear layer"
    a,b = (experiments[o].model(n_out=10) for o in ('ch14_resnet18','ch14_resnet50'))
    for m,layers,width in ((a,[2,2,2,2],512),(b,[3,4,6,3],2048)):
        assert [tuple(o[0].weight.shape[:2]) for o in list(m)[:3]]==[(32,3),(32,32),(64,32)]
        assert [len(o) for o in list(m)[4:8]]==layers
        assert m[-1].weight.shape==(10,width)
    def n_convs(name): return sum(isinstance(o, nn.Conv2d) for o in experiments[name].model(n_out=10).modules())
    convs = [n_convs(o) for o in ('ch14_cnn','ch14_resblock','ch14_deeper')]
    assert convs==[5, 15, 25]       # two and one to change the channels in each block

@pytest.mark.long
def test_fast(path, tmp_path):
    "The same images, split and batches by the package's own loading"
    e = experiments['ch07_baseline'].scaled(.25)
    a,b = (e.dls(56, 8, path, fast=o, num_workers=0) for o in (False,True))
    assert a.train.items==b.train.items and a.valid.items==b.valid.items and a.vocab==b.vocab
    assert not any(isinstance(o, Normalize) for d in (a,b) for o in d.after_batch.fs)
    assert a.one_batch()[0].shape==b.one_batch()[0].shape==(8,3,56,56)
    df = run_experiment('ch14_resnet50_progressive', path, fast=True, out=tmp_path, **small)
    assert list(df['size'])==[13,19,22]

def test_leak(path):
    "With new splits the last one is the same, those before it have images of its validation set to train on"
    e = experiments['ch07_leak']
    leaky = first(e.others)(e, None)
    def split(o, size): return [set(dl.items) for dl in o.dls(size, 4, path, num_workers=0).loaders]
    splits = {(o.name,s): split(o, s) for o in (e,leaky) for s in (128,224)}
    fixed,last,early = splits[e.name,128],splits[leaky.name,224],splits[leaky.name,128]
    assert splits[e.name,224]==fixed==last
    assert not fixed[0]&last[1]
    assert len(early[0]&last[1])>=len(last[1])/2

def test_matched():
    "As many pixels, and as many seconds, in whole epochs at 224 px"
    e = experiments['ch07_compute_matched']
    df = pd.DataFrame(dict(stage=[0]*4+[1]*6, seconds=[3.]*4+[6.]*6))
    a,b = (f(e, df) for f in e.others)
    assert [(o.size,o.n_epoch,o.bs) for o in (a.stages[0],b.stages[0])]==[(224,7,64),(224,8,64)]     # 7.3 and 8
    assert a.plan[0].fit=='fit_one_cycle' and a.plan[0].lr==3e-3

def test_subset(path):
    "The same share of each folder, the same images each time, every class"
    a = _files(path, 20)
    assert a==_files(path, 20) and 15<=len(a)<=25
    assert {parent_label(o) for o in a}=={parent_label(o) for o in _files(path)}
    assert {o.parent.parent.name for o in a}=={'train','val'}

@pytest.mark.long
def test_killed_and_resumed(path, tmp_path, capsys):
    "A command that is killed in its second seed continues, and ends as one that was not"
    args = ['ch14_deeper', '--path', path, '--scale', .2, '--epochs', 10, '--bs', 8, '--seeds', 2, '--num-workers', 0,
            '--out']
    p = subprocess.Popen([bin_dir/'progresize-book', *map(str, args), 'a'], cwd=tmp_path, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    def found(pattern): return list((tmp_path/'a').glob(f'*/{pattern}'))
    while not found('*-1.ckpt') and p.poll() is None: time.sleep(.01)
    p.kill()
    p.wait()
    assert found('*-1.ckpt') and not found('*-1.csv')
    out = {}
    for o in 'ab':
        assert command(*args, o)==(0,'')
        out[o] = capsys.readouterr().out
    assert 'seed 1: ' in out['a'] and 'seed 0' not in out['a']
    says = first(l for l in out['a'].splitlines() if 'seed 1: ' in l)
    assert says.endswith('resumed')
    a,b = (pd.read_csv(folder(tmp_path/o)/'epochs.csv') for o in 'ab')
    for k in ('run','seed','epoch','size','train_loss','valid_loss','accuracy'): assert a[k].equals(b[k]), k
    assert list(a.seed)==[0]*10+[1]*10

@pytest.fixture
def no_network(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')

def test_no_network(no_network, tmp_path):
    "One line that says what could not be downloaded, and what to do"
    r = shell_command('ch14_cnn', cwd=tmp_path)
    line, = r.stderr.strip().splitlines()
    assert r.returncode==1 and 'imagenette2-160.tgz could not be downloaded' in line
    assert '--path' in line and '--samples' in line
    assert not (tmp_path/'progresize-book').exists()

def test_half_a_download(no_network, path, tmp_path):
    "A folder with some of the images is not taken for Imagenette"
    half = tmp_path/'home'/'data'/'imagenette2'
    shutil.copytree(path, half)
    r = shell_command('ch07_baseline', cwd=tmp_path)
    assert r.returncode==1 and 'holds 34 of the 13394 images' in r.stderr
    assert '--path' in r.stderr and 'Traceback' not in r.stderr
    assert len(get_image_files(half))==34

def test_data_are_told_apart(path, tmp_path):
    "Two folders of one name do not share their results"
    for o in 'ab':
        photos = shutil.copytree(path, tmp_path/o/'photos')
        run_experiment('ch14_resblock', photos, out=tmp_path/'res', **small)
    res = tmp_path/'res'
    a,b = res.glob('ch14_*')
    assert all(re.fullmatch('ch14_resblock-[0-9a-f]{6}', o.name) and (o/'epochs.csv').exists() for o in (a,b))
    assert len(list((res/'runs').glob('*.csv')))==2
    configs = [json.loads((o/'config.json').read_text()) for o in (a,b)]
    assert sorted(o.pop('path') for o in configs)==[str(tmp_path/o/'photos') for o in 'ab']
    assert configs==[dict(scale=.1, epochs=1, bs=8, subset=16)]*2

@pytest.mark.long
def test_shared_run(path, tmp_path, capsys):
    "What two experiments begin with is trained once; each calls it by its own name, with the book's figures for it"
    a = run_experiment('ch07_progressive', path, out=tmp_path, **small)
    b = run_experiment('ch07_leak', path, out=tmp_path, **small)
    assert capsys.readouterr().out.count('ch07_progressive, seed 0')==1
    assert list(b.run.unique())==['ch07_leak','ch07_leak_new_splits'] and len(list((tmp_path/'runs').glob('*.csv')))==2
    same = ['epoch','size','train_loss','valid_loss','accuracy','seconds']
    pd.testing.assert_frame_equal(a[same], b[b.run=='ch07_leak'][same])
    assert (a.book==.863).all() and b[b.run=='ch07_leak'].book.isna().all()
    mine = {o.name for o in experiments.values() if o.shared=='ch07_progressive'}
    assert mine=={'ch07_progressive','ch07_compute_matched','ch07_leak'}
    assert len({(o.model,o.stages,o.lr_max,o.fit,o.loss_func,o.cbs,o.url,o.normalize,o.tta)
                for o in experiments.values() if o.shared})==1

def test_table_and_plot():
    "A deviation only of several seeds; the plot starts at 0, and says what was trained"
    df = pd.DataFrame(dict(run='a', about='long words', seed=[0,0,1,1], epoch=[0,1]*2, size=16, accuracy=.5, seconds=1.,
                           book=.5, book_seconds=''))
    assert 'std' in book_table(df) and 'std' not in book_table(df[df.seed==0])
    ax = plot_runs(df)
    assert ax.get_xlim()[0]==ax.get_ylim()[0]==0 and ax.get_xlabel()=='seconds of training'
    assert [o.get_text() for o in ax.get_legend().get_texts()]==['long words']
    assert plot_runs(df.drop(columns='about')).get_legend().get_texts()[0].get_text()=='a'

@pytest.mark.parametrize('args,says', [
    (['ch07_nothing'], "ch07_nothing is unknown: did you mean ch07_label_smoothing? pass one of 'ch07_baseline'"),
    (['ch07_baseline','--scale',0], '--scale 0.0: pass a factor'),
    (['ch07_baseline','--epochs','1,2'], '--epochs 1,2: ch07_baseline has 1 sizes'),
    (['ch07_baseline','--epochs','2.5'], '--epochs 2.5: pass whole numbers'),
    (['ch07_baseline','--seeds',0], '--seeds 0: pass an int of at least 1'),
    (['ch07_baseline','--subset',0], '--subset 0: pass an int of at least 1'),
    (['ch07_baseline','--num-workers',-1], '--num-workers -1: pass an int of at least 0'),
    (['ch07_baseline','--scale',.1], '--bs 64 at 22 px is above the 28 images'),
    (['ch07_baseline','--out','{path}/res'], 'is in the folder of images {path}: pass another, such as {path}-res'),
    (['ch07_baseline','--samples'], '--samples and --path {path}: pass only one'),
    ([], '--path is for experiments: pass their names too, such as ch07_progressive'),
])
def test_bad_input(path, capsys, args, says):
    args = [str(o).format(path=path) for o in args]
    code,text = command('--path', path, '--num-workers', 0, *args)
    line, = (capsys.readouterr().err+text).strip().splitlines()
    assert code==2 and says.format(path=path) in line
    assert not re.search(r"\w=|None", line)

def test_no_folder(tmp_path, capsys):
    "A line, and nothing remains"
    assert command('ch07_progressive', '--path', 'nowhere')==(2,'')
    assert 'progresize-book: --path nowhere is not a folder: pass a folder of images' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

def test_samples_alone(capsys):
    assert command('--samples')==(2,'')
    assert 'progresize-book: --samples is for experiments: pass their names too' in capsys.readouterr().err

@pytest.mark.parametrize('name', ['ch14_cnn', pytest.param('ch07_progressive_tta', marks=pytest.mark.long)])
def test_lines_in_a_pipe(path, capsys, name):
    "No bars of runs, of `lr_find` or of test time augmentation"
    assert command(name, '--path', path, '--scale', .1, '--epochs', 1, '--bs', 8, '--num-workers', 0)==(0,'')
    out = capsys.readouterr().out
    assert '█' not in out and ' epoch    size  train_loss' in out
