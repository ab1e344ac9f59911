"Two processes on the CPU train as one"
import subprocess, sys
import pytest
from helpers import *
from test_checkpoint import rows
from fastai_progresize.load.pixels import Pixels, cover_size, load_image_pixels

@pytest.fixture(scope='module')
def trained(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp('distributed')
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', 2,
           Path(__file__).parent/'distributed_run.py', path, folder]
    res = subprocess.run(list(map(str, cmd)), capture_output=True, text=True, timeout=400,
                         env={**os.environ, 'OMP_NUM_THREADS':'1'})
    assert res.returncode==0, res.stderr[-5000:]
    return folder

@pytest.mark.parametrize('frozen', (False,True))
def test_one_training(trained, frozen):
    "Both processes have the same weights, also after a stop; there is one CSV, one checkpoint, and the same history"
    files = [trained/f'{name}-{frozen}-{rank}.pth' for name in ('whole','part') for rank in (0,1)]
    (w,history,model),*others = [torch.load(f, weights_only=False) for f in files]
    assert model=='Sequential'
    for o in others: assert same_weights(o[0], w) and o[1:]==(history,model)
    for name in ('whole','part'):
        folder = trained/f'{name}-{frozen}'
        log = rows(folder/'history.csv')
        assert len(log)==1+len(history['epoch']) and log[0].startswith('epoch,train_loss')
        assert [o.name for o in (folder/'models').ls() if o.suffix=='.ckpt' and 'before' not in o.name]==['a.ckpt']
    assert rows(trained/f'part-{frozen}/history.csv')==rows(trained/f'whole-{frozen}/history.csv')

def joint(batches, others):
    "The batches of an epoch as one process would have them"
    return [tuple(map(torch.cat, zip(a, b))) for a,b in zip(batches, others, strict=True)]

class Epochs:
    "The recorded epochs of a size, as a loader"
    bs,dataset = 16,[]
    def __init__(self, epochs): self.left,self.n = iter(epochs),len(epochs[0])
    def __len__(self): return self.n
    def __iter__(self): return iter(next(self.left))

class Recorded:
    "As `get_dls`: at each size the joint batches of its epochs, one epoch after the other"
    def __init__(self, epochs): self.by_size = groupby(epochs, lambda bs: bs[0][0].shape[-1])
    def __call__(self, size, bs): return DataLoaders(Epochs(self.by_size[size]), [])

def test_not_as_one(trained):
    "The model has been trained on the batches of both processes, all layers, also those frozen at first"
    state = torch.load(trained/'whole-True/models/a.ckpt', weights_only=True)
    assert state['plan']['processes']==2 and len(state['random'])==2
    files = [trained/f'plain-{rank}.pth' for rank in (0,1)]
    (start,w,mine),(start1,w1,theirs) = (torch.load(f, weights_only=False) for f in files)
    assert same_weights(w, w1) and same_weights(start, start1)
    assert not torch.equal(mine[0][0][0], theirs[0][0][0])       # each has its own part of the images
    epochs = [joint(a, b) for a,b in zip(mine, theirs, strict=True)]
    data = Recorded(epochs)
    learn = small_learner(data(48, 16), 2, model=plain_model, opt_func=SGD, lr=3e-3, metrics=[])
    learn.model.load_state_dict(start)
    learn.freeze()
    run(learn, lr_max=.1, lr_mult=1, get_dls=data, check=False)
    got = weights(learn)
    for k in w:
        assert torch.allclose(got[k], w[k], atol=1e-5), k
        assert not torch.allclose(start[k], w[k], atol=1e-3), k      # all layers were trained

def test_decoded(trained, path):
    "One file of pixels for both, with one place for each image, and right ones; the same weights"
    a,b = (torch.load(trained/f'decoded-{rank}.pth') for rank in (0,1))
    assert same_weights(a, b)
    files = list((trained/'copies'/'decoded').glob('*.pixels'))
    assert len(files)>=2
    for f in files:
        size = tuple(map(int, f.stem.split('-')[0].split('x')))
        pixels = Pixels(f.parent, size)
        names = get_image_files(path)
        pixels.reserve(names)
        assert len(pixels.entries)==len(names) and (pixels.there!=0).any()
        for o in names:
            i = pixels.rows[str(o)]
            want = load_image_pixels(o, cover_size(Image.open(o).size, size))
            assert not pixels.there[i] or torch.equal(pixels.planes(i), want)

def test_two_disks(trained):
    "The first process sends the state of the run to the other, whose disk does not have it"
    assert not (trained/'apart-part-1'/'models'/'a.ckpt').exists()
    ends = [torch.load(trained/f'apart-{name}-{rank}.pth') for name in ('whole','part') for rank in (0,1)]
    for o in ends[1:]: assert same_weights(o, ends[0])

def test_fastai_is_as_it_was(trained):
    "What fastai's `DistributedDL` needs without GPUs was put back after each run"
    for rank in (0,1): assert (trained/f'broadcast-{rank}').read_text()=='True'

def test_error_in_all(trained):
    "What one process finds before training is raised in both"
    a,b = ((trained/f'error-{o}').read_text() for o in (0,1))
    assert a==b and 'bs=1000' in a
