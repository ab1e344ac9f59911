"The commands, as a shell runs them"
import pytest, shutil, subprocess
from helpers import *

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
    says = ['32','48','accuracy','time saved','images/s at 32 px','Loaded again, it takes']
    check_fit(tmp_path/'res', r.stdout, says, n=3)
    assert 'Warning' not in r.stderr and 'Traceback' not in r.stderr

def test_fit_rectangle(path, tmp_path, capsys):
    args = ['--sizes','24x32', '--epochs','1', '--arch','resnet18', '--bs','8', '--num-workers',0]
    assert in_process('progresize-fit', path, *args, '--out','res')==(0,'')
    out = capsys.readouterr()
    check_fit(tmp_path/'res', out.out, ['(24, 32)'], n=1)
    assert 'Warning' not in out.err and 'Traceback' not in out.err

def test_fit_killed_and_resumed(path, tmp_path, capsys):
    "A killed command continues with --resume; --verify leaves a damaged file out; --preflight tells what it will take"
    images = tmp_path/'images'
    shutil.copytree(path, images)
    (images/'train/A/bad.jpg').write_bytes(b'')
    cmd = ['progresize-fit', images, '--sizes','24,32', '--epochs','2,3', '--arch','xresnet18', '--bs','8',
           '--fit','fine_tune', '--num-workers',0, '--out','res', '--verify','skip']
    p = subprocess.Popen([bin_dir/cmd[0], *map(str, cmd[1:]), '--checkpoint'], cwd=tmp_path,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path/'res/run.before.ckpt').exists() and p.poll() is None: time.sleep(.01)     # after an epoch
    p.kill()
    p.wait()
    saved = torch.load(tmp_path/'res/run.ckpt', weights_only=True)['epoch']
    assert 0<saved<6
    assert in_process(*cmd, '--resume', '--preflight')==(0,'')
    out = capsys.readouterr().out
    assert 'Tried before training' in out and 'predicted were' in out
    assert list(pd.read_csv(tmp_path/'res/history.csv').epoch)==list(range(6))
    code,says = in_process(*cmd[:-1], 'error')
    assert code==1 and 'bad.jpg cannot be read as an image' in says

@pytest.mark.parametrize('args,says', [
    (['--arch','resnet1'], "arch='resnet1' is no model of fastai, torchvision or timm"),
    (['--sizes','48,32'], 'sizes=[48, 32] do not grow'),
    (['--sizes','a,b'], "sizes='a,b': pass numbers"),
    (['--epochs','1','--sizes','32,48'], 'pass at least 2 epochs'),
    (['--sizes','32,48','--bs','100'], 'above the 24 images'),
])
def test_fit_fails(path, tmp_path, capsys, args, says):
    code,text = in_process('progresize-fit', path, '--num-workers', 0, *args)
    assert code==1
    line, = (capsys.readouterr().err+text).strip().splitlines()
    assert line.startswith('progresize-fit: ') and says in line
    assert not list(tmp_path.iterdir())

def test_no_folder(tmp_path):
    r = in_shell('progresize-fit', tmp_path/'nothing', cwd=tmp_path)
    line, = r.stderr.strip().splitlines()
    assert r.returncode==1 and line.startswith('progresize-fit: ') and 'is not a folder' in line
    assert 'Traceback' not in r.stderr

@pytest.mark.parametrize('name', ('progresize-demo','progresize-fit'))
def test_help(capsys, name):
    assert in_process(name, '--help')==(0,'')
    assert '--sizes' in capsys.readouterr().out

@pytest.mark.long
def test_demo(tmp_path):
    r = in_shell('progresize-demo', cwd=tmp_path)
    assert r.returncode==0 and 'time saved' in r.stdout and 'Loaded again' in r.stdout
