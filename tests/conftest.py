import matplotlib; matplotlib.use('agg')
import csv, os, pytest, torch
from collections import Counter
from pathlib import Path
from fastai_progresize.load.folder import get_dls
from fastai_progresize.samples import glyphs

torch.backends.cudnn.deterministic = True      # bit-identical on a GPU too

counts = Path(__file__).parent.parent/os.environ['COUNTS'] if 'COUNTS' in os.environ else None

def pytest_sessionstart(session):
    if counts and not hasattr(session.config, 'workerinput'): counts.write_text('test,promise,tried,held\n')

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Of a test marked `every(n)`, each n-th case is for `make test`, the others are for `make test-long`"
    seen = Counter()
    for o in items:
        for mark in o.iter_markers('every'):
            if seen[o.function]%mark.args[0]: o.add_marker('long')
            seen[o.function] += 1

@pytest.fixture
def count(request):
    "Let a test write how often it has tried a promise, and how often that held, to the file that `COUNTS` names"
    def _count(promise, tried, held):
        print(f'{promise}: {held} of {tried}')
        if not counts: return
        with counts.open('a', newline='') as f:
            csv.writer(f, lineterminator='\n').writerow([request.node.name.split('[')[0], promise, tried, int(held)])
    return _count

@pytest.fixture(scope='session')
def path(tmp_path_factory): return glyphs(24, 10, path=tmp_path_factory.mktemp('data'))

@pytest.fixture
def dls(path): return get_dls(48, 8, path, num_workers=0)

@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    matplotlib.pyplot.close('all')
