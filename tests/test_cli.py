"The commands, as a shell runs them"
import pytest, shutil, subprocess, zipfile
from importlib import metadata
from helpers import *

import fastai_progresize
from fastai_progresize import preflight
from fastai_progresize.apps import book, commands, folder as cli
from fastai_progresize.args import Invalid, check_count
from fastai_progresize.utils import warn_once
from fastai_progresize.checks import split as check
from fastai_progresize.checks.trial import Timing
from fastai_progresize.load.files import raise_faults
from fastai_progresize.resume.same import check_plan
from fastai_progresize.apps.commands import as_flag, progresize_fit

results = ['history.csv','learner.pkl','stages.png']

def check_fit(out, stdout, parts, n):
    for o in parts: assert o in stdout
    assert sorted(o.name for o in out.iterdir())==results
    df = pd.read_csv(out/'history.csv')
    assert len(df)==n and {'size','accuracy','images/s'}<=set(df.columns)

def test_fit(path, tmp_path):
    args = ['--sizes','32,48', '--epochs','1,1', '--arch','xresnet18', '--bs','8', '--compare',
            '--fit','fine_tune', '--num-workers',0]
    r = in_shell('progresize-fit', path, *args, '--out','res', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    says = ['32','48','accuracy','time saved','images/s at 32 px','The exported learner predicts']
    check_fit(tmp_path/'res', r.stdout, says, n=3)
    assert 'Warning' not in r.stderr and 'Traceback' not in r.stderr

def test_fit_rectangle(path, tmp_path, capsys):
    args = ['--sizes','24x32', '--epochs','1', '--arch','resnet18', '--bs','8', '--num-workers',0]
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    out = capsys.readouterr()
    check_fit(tmp_path/'res', out.out, ['(24, 32)', 'At (24, 32) px:\n'], n=1)
    assert 'growing' not in out.out
    assert 'Warning' not in out.err and 'Traceback' not in out.err

@pytest.mark.long
def test_fit_killed_and_resumed(path, tmp_path, capsys):
    "A killed command continues with --resume; --verify leaves a damaged file out; --preflight tells what it will take"
    images = tmp_path/'images'
    shutil.copytree(path, images)
    (images/'train/A/bad.jpg').write_bytes(b'')
    cmd = ['progresize-fit', images, '--sizes','24,32', '--epochs','2,3', '--arch','xresnet18', '--bs','8',
           '--fit','fine_tune', '--num-workers',0, '--out','res', '--verify','skip']
    p = subprocess.Popen([bin_dir/cmd[0], *map(str, cmd[1:]), '--checkpoint'], cwd=tmp_path,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file,before = tmp_path/'res/run.ckpt',tmp_path/'res/run.ckpt.before'
    while not (before.exists() and not file.samefile(before)) and p.poll() is None: time.sleep(.01)     # after an epoch
    p.kill()
    p.wait()
    saved = torch.load(file, weights_only=True)['epoch']
    assert 0<saved<6
    assert in_process(*cmd, '--resume', '--preflight')==(0,'')
    out = capsys.readouterr().out
    assert 'Tried before training' in out and ' were predicted' in out
    assert list(pd.read_csv(tmp_path/'res/history.csv').epoch)==list(range(6))
    code,says = in_process(*cmd[:-1], 'error')
    assert code==1 and 'bad.jpg cannot be read as an image' in says

@pytest.mark.parametrize('args,says', [
    (['--arch','resnet1'], "--arch resnet1 is not a model of fastai, torchvision or timm"),
    (['--arch','xresnet-18'], "(if installed): did you mean xresnet18? pass one such as xresnet18"),
    (['--size','0'], '--size 0: pass one size in px, such as 224, or height x width, such as 160x320'),
    (['--size','32,64'], '--size 32,64: pass one size in px'),
    (['--valid-size','last'], '--valid-size last: pass stage, final, or one size in px, such as 224'),
    (['--size','20000'], '--size 20000: pass a size of at most 10000 px'),
    (['--size','64','--sizes','32,48'], '--size 64: the last of --sizes 32,48 is the final one: pass one of them'),
    (['--minutes','2','--epochs','3'], '--minutes 2.0 and --epochs 3: pass one of them'),
    (['--minutes','-1'], '--minutes -1.0: pass a positive, finite number'),
    (['--arch','AlexNet'], "--arch AlexNet: `vision_learner` cannot cut a body"),
    (['--sizes','48,32'], '--sizes 48,32 do not grow: pass the smallest first'),
    (['--sizes','32x48,16'], '--sizes 32x48,16 do not grow'),
    (['--sizes','a,b'], "--sizes a,b: pass sizes in px, such as 128,224, or height x width"),
    (['--sizes','0'], "--sizes 0: pass sizes in px"),
    (['--sizes','20000'], '--sizes 20000: pass a size of at most 10000 px'),
    (['--sizes','32x20000'], '--sizes 32x20000: pass a size of at most 10000 px'),
    (['--epochs','1','--sizes','32,48'], '--epochs 1 is less than the 2 sizes: pass at least 2 epochs'),
    (['--epochs','1','--sizes','32,48'], ' epochs, or fewer --sizes'),
    (['--epochs','1,2,3','--sizes','32,48'], '--epochs has 3 values for 2 sizes'),
    (['--epochs','128,224'], 'pass --epochs and --sizes 128,224; if they are epochs, pass their --sizes too'),
    (['--epochs','2.5'], '--epochs 2.5: pass whole numbers of at least 1, such as 10, or 4,5 for two sizes'),
    (['--epochs','0'], '--epochs 0: pass whole numbers'),
    (['--epochs','2000000'], '--epochs 2000000: pass an int of at most 1000000'),
    (['--sizes','32,48','--bs','100'], 'on no batches: pass --bs 24 or less'),
    (['--bs','0'], '--bs 0: pass an int of at least 1'),
    (['--lr','-1'], '--lr -1.0: pass a positive, finite number'),
    (['--seed','-1'], '--seed -1: pass an int of at least 0'),
    (['--num-workers','-1'], '--num-workers -1: pass an int of at least 0'),
    (['--sizes','64','--presize','32'], '--presize 32 is below --sizes 64: pass a larger one'),
    (['--sizes','8','--epochs','1','--arch','alexnet','--bs','8'], 'pass --sizes that it can take'),
    (['--out','{path}'], 'is in the folder of images {path}: pass another, such as {path}-results'),
    (['--out','{path}/train/A'], 'is in the folder of images {path}: pass another, such as {path}-A'),
    (['--out','{path}/train/A/00000.jpg'], 'pass the path of a folder'),
])
def test_fit_fails(path, tmp_path, capsys, args, says):
    "A line that says what is wrong with which flag, and names no Python argument"
    args = [o.format(path=path) for o in args]
    code,text = in_process('progresize-fit', path, '--num-workers', 0, *args)
    assert code==(1 if says=='pass --sizes that it can take' else 2)        # a failure, or a wrong flag
    line, = (capsys.readouterr().err+text).strip().splitlines()
    assert line.startswith('progresize-fit: ') and says.format(path=path) in line, line
    assert not re.search(r"\w=|Stage|slice|None|`(bs|sizes|fit|lr|n_epoch|lr_max|path|out)`", line), line
    assert not list(tmp_path.iterdir()) and get_files(path)==get_image_files(path)

@pytest.mark.parametrize('flag,value,says', [
    ('--fit', 'adam', "'flat_cos', 'single_cycle', 'fine_tune', 'fit_one_cycle'"),
    ('--verify', 'warn', "'error', 'skip'"),
    ('--bs', '2.5', "invalid int value: '2.5'"),
])
def test_flags_that_take_a_choice(path, capsys, flag, value, says):
    "What is allowed is in the help and in the error, which is one line"
    assert in_process('progresize-fit', path, flag, value)==(2,'')
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f'progresize-fit: argument {flag}: ') and says in line
    assert in_process('progresize-fit', '--help')==(0,'')
    if flag!='--bs': assert f"{flag} {{{says.replace(' ', '').replace(chr(39), '')}}}" in capsys.readouterr().out

def test_resumed_elsewhere(path, tmp_path, monkeypatch, capsys):
    "What was started in a terminal can be resumed in a pipe"
    args = ['--sizes','24,32', '--epochs','1,2', '--arch','xresnet18', '--bs','8', '--num-workers',0, '--out','res']
    with monkeypatch.context() as m:
        m.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
        m.setattr(cli, '_save_run', lambda *args: sys.exit('stopped'))      # with all epochs saved
        assert in_process('progresize-fit', path, *args, '--checkpoint')[0]==1
    assert (tmp_path/'res/run.ckpt').exists()
    assert in_process('progresize-fit', path, *args, '--resume')==(0,'')
    assert len(pd.read_csv(tmp_path/'res/history.csv'))==3

def in_flags(f, call, *args, **kwargs):
    "What the command `f` says when `call` fails"
    with pytest.raises(Invalid) as e: call(*args, **kwargs)
    return e.value.say(partial(as_flag, f))

@pytest.mark.parametrize('call,says', [
    (lambda: raise_faults({'a.jpg': 'damaged'}), "finds all such files, and --verify skip leaves them out"),
    (lambda: Plan(4, [(16,24),32,16]), "--sizes 16x24,32,16 do not grow: pass the smallest first"),
    (lambda: Plan(4, 20_000), "--sizes 20000: pass a size of at most 10000 px"),
    (lambda: Plan((1,2,3), (16,24)), "--epochs has 3 values for 2 sizes: pass one value, or one for each size"),
    (lambda: Plan(4, (16,24), div=-1), "div=-1: pass a positive, finite number"),      # there is no such flag
    (lambda: check_count('wd', .1), "wd=0.1: pass an int of at least 1"),
    (lambda: check_plan({'a':1}, {'a':2}, 'a.ckpt'), "Pass what it was, or another name as --out to start again"),
    (lambda: check.SplitCheck()._check_keys({'a'}, {'a','b'}, 16), "such as a. Remove one of each pair, or put both in"
     " training or both in validation"),
])
def test_flags_in_errors(call, says): assert says in in_flags(progresize_fit, call)

def test_flags_of_another_command():
    "What a command has no flag for is left as it is"
    assert "and verify='skip' leaves them out" in in_flags(commands.progresize_book, raise_faults, {'a.jpg': 'damaged'})
    says = in_flags(commands.progresize_book, book._check_args, book.experiments['ch14_cnn'], 'nowhere', 'out', 1)
    assert says.startswith("--path nowhere is not a folder: pass a folder of images")

def test_few_images(tmp_path, capsys):
    "Sixty images train with a bs of which an epoch has some batches, and a line says so"
    images = glyphs(48, 12, path=tmp_path)
    args = ['--sizes','16,24', '--epochs','1,1', '--arch','xresnet18', '--num-workers',0]
    assert in_process('progresize-fit', images, *args, '--out','res')==(0,'')
    out = capsys.readouterr().out
    assert 'Using a batch size of 8, as there are only 48 training images' in out
    assert list(pd.read_csv(tmp_path/'res/history.csv').bs)==[8,8]
    assert 'time saved' not in out                                  # than what?

def test_size(path, tmp_path, capsys):
    "Sizes are derived from the final one"
    args = ['--size',32, '--epochs',3, '--bs',8, '--num-workers',0, '--valid-size','final', '--fp16']
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    assert list(pd.read_csv(tmp_path/'res/history.csv')['size'])==[16,24,32]
    assert 'Tried before training' not in capsys.readouterr().out

@pytest.mark.parametrize('flag,value', [('final','final'), ('48',48), ('32x48',(32,48))])
def test_valid_size(path, monkeypatch, flag, value):
    "Passed on to the run and to what tries it"
    seen = []
    def _fit(learn, *args, valid_size, **kwargs): seen.append(valid_size); raise KeyboardInterrupt
    monkeypatch.setattr(Learner, 'fit_progressive', _fit)
    assert 'interrupted' in in_process('progresize-fit', path, '--size',32, '--valid-size',flag, '--num-workers',0)[1]
    assert seen==[value]

def test_one_of_sizes(path, monkeypatch):
    "`--sizes` with one size trains at that alone, and says so; `--size` does not"
    seen = []
    def _fit(path, out, plan, *args, **kwargs): seen.append([o.size for o in plan])
    monkeypatch.setattr(cli, 'fit_folder', _fit)
    with pytest.warns(UserWarning, match="^--sizes 64 is one size: all epochs train at it$"):
        assert in_process('progresize-fit', path, '--sizes',64)==(0,'')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert in_process('progresize-fit', path, '--size',64)==(0,'')
    assert seen==[[64],[32,48,64]]

@pytest.mark.parametrize('name,flag,like', [
    ('fit','--valid_size','--valid-size'), ('fit','--pretrain','--pretrained'), ('fit','--epoch','--epochs'),
    ('book','--sample','--samples'), ('demo','--check','--checkpoint'), ('demo','--zzz','')])
def test_like_flags(path, capsys, name, flag, like):
    assert in_process(f'progresize-{name}', *[path]*(name!='demo'), flag)==(2,'')
    line, = capsys.readouterr().err.splitlines()
    like = like and f'did you mean {like}? '
    assert line==f"progresize-{name}: unrecognized arguments: {flag}: {like}see progresize-{name} --help"

def test_minutes(path, tmp_path, capsys, monkeypatch):
    "As many epochs as fit in, after a trial, which says here that an epoch takes 15 seconds"
    monkeypatch.setattr(preflight, 'try_stage', lambda *args, **kwargs: Timing(model=15., loading=0., memory=1.))
    args = ['--size',24, '--minutes',1, '--arch','xresnet18', '--bs',8, '--num-workers',0, '--compare']
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    out = capsys.readouterr().out
    n = len(pd.read_csv(tmp_path/'res/history.csv'))
    assert 'Tried before training' in out and f' for {n} epochs' in out and 1<n<=4
    assert f'{n} epochs at 24 px' in out           # the comparison is as long

def test_long_run(path, tmp_path, capsys, monkeypatch):
    "Without a GPU, a run that may take minutes is tried first"
    monkeypatch.setattr(cli, '_long', 1)
    args = ['--sizes',24, '--epochs',1, '--arch','xresnet18', '--bs',8, '--num-workers',0]
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    assert 'Tried before training' in capsys.readouterr().out

@pytest.mark.parametrize('gpu,arch', [(True,'resnet50'), (False,'resnet18')])
def test_default_arch(dls, monkeypatch, gpu, arch):
    "A small net without a GPU; of torchvision with its weights"
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    made = []
    monkeypatch.setattr(cli, 'vision_learner', lambda dls, f, **kwargs: made.append((f.__name__, kwargs['cbs'])))
    cli.folder_learner(dls, pretrained=True, fp16=True)
    assert made==[(arch, MixedPrecision if gpu else None)]
    monkeypatch.setattr(cli, 'x'+arch, lambda n_out, widen: made.append('x'+arch) or nn.Linear(2, 2))
    cli.folder_learner(dls)
    assert made[1:]==['x'+arch]

def test_few_steps(path, capsys):
    "Who trains from scratch on a few images is told before training, with the flag that helps"
    args = ['--size',96, '--epochs',1, '--arch','xresnet18', '--bs',8, '--num-workers',0]
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    before = capsys.readouterr().out.split(' epoch  ')[0]
    assert '3 steps in all, too few to train from scratch' in before and '`--pretrained`' in before

def test_warnings_are_lines(path, capsys, monkeypatch):
    "Once, and without the code that raises them"
    def _fit(*args, **kwargs):
        for _ in range(2): warnings.warn('Look\nout')
        raise ValueError('an error\nof two lines')
    monkeypatch.setattr(cli, 'fit_folder', warn_once()(_fit))
    own = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        monkeypatch.setattr(warnings, 'showwarning', lambda m, c, *a, **k: print(warnings.formatwarning(m, c, *a), end=''))
        code,text = in_process('progresize-fit', path)
    assert capsys.readouterr().out=='\nprogresize-fit: Look out\n'
    assert (code,text)==(1,'\nprogresize-fit: an error of two lines') and warnings.formatwarning is own

def test_default_bs():
    assert [cli._default_bs(o) for o in (1,7,16,48,100,255,256,10_000)]==[2,2,4,8,16,32,64,64]

def lines_and_bars(path, capsys):
    args = ['--sizes','24,32', '--epochs','1,2', '--arch','xresnet18', '--bs','8', '--num-workers',0, '--verify','skip',
            '--cache', '--decoded']
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    out = capsys.readouterr().out
    return out,[o.split() for o in out.splitlines() if re.match(r' *\d+  ', o)]

def test_lines_in_a_pipe(path, tmp_path, capsys):
    "A line per epoch under a header and no bar; the exported learner has its bar, and nothing of this package"
    out,lines = lines_and_bars(path, capsys)
    assert '█' not in out and '\r' not in out
    assert ' epoch    size  train_loss  valid_loss  accuracy    time\n     0      24 ' in out
    df = pd.read_csv(tmp_path/'res/history.csv')
    rows = zip(df.epoch, df['size'], df.train_loss)
    assert [o[:3] for o in lines[-3:]]==[[str(e),str(s),f'{l:.4f}'] for e,s,l in rows]
    assert load_learner(tmp_path/'res/learner.pkl').progress
    with zipfile.ZipFile(tmp_path/'res/learner.pkl') as z:
        assert not any(b'fastai_progresize' in z.read(o) for o in z.namelist() if o.endswith('.pkl'))

def test_bars_in_a_terminal(path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    assert '█' in lines_and_bars(path, capsys)[0]

def test_no_folder(tmp_path):
    r = in_shell('progresize-fit', tmp_path/'nothing', cwd=tmp_path)
    line, = r.stderr.strip().splitlines()
    assert r.returncode==2 and line.startswith('progresize-fit: ') and 'is not a folder' in line
    assert 'Traceback' not in r.stderr

@pytest.mark.parametrize('name', ('progresize-demo','progresize-fit'))
def test_help(capsys, name):
    assert in_process(name, '--help')==(0,'')
    assert '--sizes' in capsys.readouterr().out

names = ('progresize-demo','progresize-fit','progresize-book')

@pytest.mark.parametrize('name', names)
def test_examples(capsys, name):
    "Examples in the help are lines of their own, whose flags there are"
    assert in_process(name, '--help')==(0,'')
    lines = capsys.readouterr().out.split('examples:\n')[1].splitlines()
    parser = commands.make_parser(getattr(commands, name.replace('-', '_')), '')
    assert len(lines)>1
    for o in lines:
        first,*args = o.split()
        assert first==name and parser.parse_args(args)

@pytest.mark.parametrize('name', names)
def test_version(capsys, name):
    assert in_process(name, '--version')==(0,'')
    own,others = capsys.readouterr().out.strip().removesuffix(')').split(' (')
    assert own==f'fastai_progresize {fastai_progresize.__version__}'
    assert others==', '.join(f'{k} {metadata.version(k)}' for k in ('fastai','torch'))

light = [('fit', o) for o in (['--help'], ['--version'], ['a','--fit','x'], ['a','--epochs','.5'], ['a','--sizes','x'],
                              ['a','--sizes','64,32'], ['nowhere'], ['a','--out','a/b'])]
light += [('book', o) for o in ([], ['ch07_nothing'], ['--fast'], ['ch14_cnn','--path','nowhere'])]

@pytest.mark.parametrize('name,args', light)
def test_light(tmp_path, name, args):
    "What can be known without fastai comes without importing it: help, the list of experiments, errors in flags"
    (tmp_path/'a').mkdir()
    code = f"""
import sys
from fastai_progresize.apps.commands import progresize_{name} as f
sys.argv = ['progresize-{name}', *{args!r}]
try: f.main()
except SystemExit: pass
print('heavy:', *sys.modules.keys() & {{'fastai','torch','pandas','numpy','PIL'}})
"""
    assert in_python(code, tmp_path).splitlines()[-1]=='heavy:'

@pytest.mark.parametrize('name', ('progresize-fit','progresize-demo'))
def test_no_abbreviations(path, capsys, name):
    "`--size` is not taken for `--sizes`, nor any other flag for a longer one"
    assert in_process(name, *[path]*(name=='progresize-fit'), '--chec')==(2,'')
    assert 'unrecognized arguments: --chec' in capsys.readouterr().err
    assert ('--size ' in commands.make_parser(getattr(commands, name.replace('-', '_')), '').format_help())==(name!='progresize-demo')

def test_help_has_the_defaults(capsys):
    "Each flag that takes a value says its default, but for those that are off"
    for name in names:
        assert in_process(name, '--help')==(0,'')
        text = ' '.join(capsys.readouterr().out.split())
        assert '(default: False)' not in text
        parser = commands.make_parser(getattr(commands, name.replace('-', '_')), '')
        for o in parser._actions:
            off = o.nargs==0 or o.dest in ('path','sizes','minutes','verify','pdb','xtra')
            assert off or 'default: ' in o.help, o.dest

def test_console_scripts():
    "What settings.ini names is there"
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=['='])
    ini.read(Path(__file__).parent.parent/'settings.ini')
    scripts = dict(o.split('=', 1) for o in ini['DEFAULT']['console_scripts'].split())
    assert sorted(scripts)==sorted(names)
    for k,v in scripts.items(): assert v==f"fastai_progresize.apps.commands:{k.replace('-', '_')}.main"
    assert all(callable(getattr(commands, k.replace('-', '_')).main) for k in scripts)

@pytest.mark.long
def test_demo(tmp_path):
    r = in_shell('progresize-demo', cwd=tmp_path)
    assert r.returncode==0 and 'time saved' in r.stdout and 'The exported learner predicts' in r.stdout
