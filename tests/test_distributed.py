"Two processes on the CPU train as one"
import subprocess, sys
import pytest
from helpers import *
from test_checkpoint import rows

@pytest.fixture(scope='module')
def trained(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp('distributed')
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', Path(__file__).parent/'distributed_run.py', path, folder]
    res = subprocess.run(list(map(str, cmd)), capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS':'1'}, timeout=400)
    assert res.returncode==0, res.stderr[-5000:]
    return folder

@pytest.mark.parametrize('frozen', (False,True))
def test_one_training(trained, frozen):
    "Both processes have the same weights, also after a stop; there is one CSV, one checkpoint, and the same history"
    (w,history,model),*others = [torch.load(trained/f'{name}-{frozen}-{rank}.pth', weights_only=False) for name in ('whole','part') for rank in (0,1)]
    assert model=='Sequential'
    for o in others: assert same_weights(o[0], w) and o[1:]==(history,model)
    for name in ('whole','part'):
        log = rows(trained/f'{name}-{frozen}/history.csv')
        assert len(log)==1+len(history['epoch']) and log[0].startswith('epoch,train_loss')
        assert [o.name for o in (trained/f'{name}-{frozen}/models').ls() if o.suffix=='.ckpt']==['a.ckpt']
    assert rows(trained/f'part-{frozen}/history.csv')==rows(trained/f'whole-{frozen}/history.csv')

def test_not_as_one(trained):
    "The model has been trained on the batches of both processes: gradients of all layers, also those that were frozen first, are shared"
    state = torch.load(trained/'whole-True/models/a.ckpt', weights_only=True)
    assert state['plan']['processes']==2 and len(state['random'])==2

def test_error_in_all(trained):
    "What one process finds before training is raised in both"
    a,b = ((trained/f'error-{o}').read_text() for o in (0,1))
    assert a==b and 'bs=1000' in a
