"The commands, as a shell runs them"
import pytest, shutil, subprocess, sys
from helpers import *

def run(*args, cwd): return subprocess.run([Path(sys.executable).parent/args[0], *map(str, args[1:])], cwd=cwd, capture_output=True, text=True)

@pytest.mark.parametrize('args,parts', [
    (['--sizes','32,48','--epochs','1,1','--arch','xresnet18','--bs','8','--compare'], ['32','48','accuracy','time saved','images/s at 32 px','Loaded again, it takes']),
    (['--sizes','24x32','--epochs','1','--arch','resnet18','--bs','8'], ['(24, 32)']),
])
def test_fit(path, tmp_path, args, parts):
    r = run('progresize-fit', path, *args, '--num-workers', 0, '--out', 'res', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    for o in parts: assert o in r.stdout
    assert sorted(o.name for o in (tmp_path/'res').iterdir())==['history.csv','learner.pkl','stages.png']
    df = pd.read_csv(tmp_path/'res'/'history.csv')
    assert len(df)==(3 if '--compare' in args else 1) and {'size','accuracy','images/s'}<=set(df.columns)
    assert 'Warning' not in r.stderr and 'Traceback' not in r.stderr

def test_fit_killed_and_resumed(path, tmp_path):
    "A command that is killed goes on with --resume; one with --verify leaves a damaged file out; --preflight tells what it will take"
    images = tmp_path/'images'
    shutil.copytree(path, images)
    (images/'train/A/bad.jpg').write_bytes(b'')
    cmd = ['progresize-fit', images, '--sizes','24,32', '--epochs','2,3', '--arch','xresnet18', '--bs','8', '--num-workers',0, '--out','res', '--verify','skip']
    p = subprocess.Popen([Path(sys.executable).parent/cmd[0], *map(str, cmd[1:]), '--checkpoint'], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path/'res/run.ckpt').exists() and p.poll() is None: time.sleep(.01)
    p.kill()
    p.wait()
    saved = torch.load(tmp_path/'res/run.ckpt', weights_only=True)['epoch']
    assert 0<saved<6
    r = run(*cmd, '--resume', '--preflight', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert 'Tried before training' in r.stdout and 'predicted were' in r.stdout
    assert list(pd.read_csv(tmp_path/'res/history.csv').epoch)==list(range(6))
    r = run(*cmd[:-1], 'error', cwd=tmp_path)
    assert r.returncode==1 and 'bad.jpg cannot be read as an image' in r.stderr

@pytest.mark.parametrize('args,says', [
    (['--arch','resnet1'], "arch='resnet1' is no model of fastai or torchvision"),
    (['--sizes','48,32'], 'sizes=[48, 32] do not grow'),
    (['--sizes','a,b'], "sizes='a,b': pass numbers"),
    (['--epochs','1','--sizes','32,48'], 'pass at least 2 epochs'),
    (['--sizes','32,48','--bs','100'], 'above the 24 images'),
])
def test_fit_fails(path, tmp_path, args, says):
    r = run('progresize-fit', path, '--num-workers', 0, *args, cwd=tmp_path)
    assert r.returncode==1
    line, = r.stderr.strip().splitlines()
    assert line.startswith('progresize-fit: ') and says in line
    assert not list(tmp_path.iterdir())

def test_no_folder(tmp_path):
    r = run('progresize-fit', tmp_path/'nothing', cwd=tmp_path)
    assert r.returncode==1 and 'is not a folder' in r.stderr and 'Traceback' not in r.stderr

def test_help(tmp_path):
    for o in ('progresize-demo','progresize-fit'): assert '--sizes' in run(o, '--help', cwd=tmp_path).stdout

@pytest.mark.long
def test_demo(tmp_path):
    r = run('progresize-demo', cwd=tmp_path)
    assert r.returncode==0 and 'time saved' in r.stdout and 'Loaded again' in r.stdout
