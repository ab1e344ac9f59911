import matplotlib; matplotlib.use('agg')
import pytest, torch
from fastai_progresize.fast.loaders import get_dls
from fastai_progresize.samples import glyphs

torch.backends.cudnn.deterministic = True      # equal to the last bit on a GPU too

@pytest.fixture(scope='session')
def path(tmp_path_factory): return glyphs(24, 10, path=tmp_path_factory.mktemp('data'))

@pytest.fixture
def dls(path): return get_dls(48, 8, path, num_workers=0)

@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    matplotlib.pyplot.close('all')
