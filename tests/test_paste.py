"Every visible code cell of every tutorial, pasted in order into a plain kernel, runs"
import nbformat, pytest
from pathlib import Path
from fastcore.nbio import read_nb
from nbclient import NotebookClient
from nbdev.config import get_config
from nbdev.process import NBProcessor

root = Path(__file__).parent.parent
tutorials = {o.stem: o for o in sorted((root/'nbs'/'tutorials').glob('*.ipynb'))}
quick = 'quick_start','cheat_sheet','questions'
skipped = {*get_config(root).tst_flags.split(), 'network', 'gpu'}

# the pages draw thousands of images
few_images = """
def _draw_few():
    from fastai_progresize import samples
    draw = samples.glyphs
    def glyphs(n_train=1500, n_valid=500, *args, **kwargs):
        return draw(min(n_train, 60), min(n_valid, 20), *args, **kwargs)
    samples.glyphs = glyphs
_draw_few()
del _draw_few
"""

def code_cells(name):
    "The visible code cells of a tutorial, each with its directives"
    for c in NBProcessor(tutorials[name], rm_directives=False, process=True).nb.cells:
        flags = getattr(c, 'directives_', None) or {}
        hidden = 'hide' in flags or 'false' in (flags.get('echo'),flags.get('include'))
        if c.cell_type=='code' and c.source.strip() and not hidden: yield c.source,set(flags)

def pasted(name): return [s for s,flags in code_cells(name) if not flags & skipped]

def left_out():
    "What needs a network or a GPU, by tutorial: how many cells"
    counts = {k: sum(bool(flags & skipped) for _,flags in code_cells(k)) for k in tutorials}
    return {k:n for k,n in counts.items() if n}

def test_left_out():
    "Only the book's experiments need what is not there"
    print(left_out())
    assert left_out().keys()=={'imagenette'}

@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    home,folder = tmp_path/'home',tmp_path/'current'
    for o in (home,folder): o.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('PYTHONPATH', str(root))
    monkeypatch.delenv('FASTAI_HOME', raising=False)
    return folder

@pytest.mark.parametrize('name', [k if k in quick else pytest.param(k, marks=pytest.mark.long) for k in tutorials])
def test_paste(name, empty_home):
    cells = [nbformat.v4.new_code_cell(o) for o in (few_images, *pasted(name))]
    assert len(cells)>1 or name in ('glossary','works_with','promises'), 'no code to paste'
    nb = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(nb, timeout=300, kernel_name='python3', resources=dict(metadata=dict(path=str(empty_home)))).execute()
