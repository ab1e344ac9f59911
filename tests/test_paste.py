"Every visible block of code of every tutorial, of a cell or in the text, pasted in order into a plain kernel, runs"
import nbformat, pytest, re
from pathlib import Path
from fastcore.nbio import read_nb
from nbclient import NotebookClient
from nbdev.config import get_config
from nbdev.process import NBProcessor
from fastai_progresize._modidx import d

root = Path(__file__).parent.parent
tutorials = {o.stem: o for o in sorted((root/'nbs'/'tutorials').glob('*.ipynb'))}
quick = 'speed',
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

def blocks(name):
    "The visible code cells of a tutorial, each with its directives, and the blocks of Python in its text"
    for c in NBProcessor(tutorials[name], rm_directives=False, process=True).nb.cells:
        flags = getattr(c, 'directives_', None) or {}
        hidden = 'hide' in flags or 'false' in (flags.get('echo'),flags.get('include'))
        if c.cell_type=='code' and c.source.strip() and not hidden: yield c.source,set(flags)
        if c.cell_type=='markdown': yield from ((o, set()) for o in in_text(c.source))

def in_text(source):
    "Blocks of Python; one that is the file of a script is not pasted"
    return re.findall(r'^```python\n(.*?)^```$', source, re.MULTILINE|re.DOTALL)

def pasted(name): return [s for s,flags in blocks(name) if not flags & skipped]

def left_out():
    "The cells that need a network or a GPU, by tutorial"
    cells = {k: [s for s,flags in blocks(k) if flags & skipped] for k in tutorials}
    return {k:o for k,o in cells.items() if o}

def test_left_out():
    "Only the book's experiments and a pretrained model need what is not there"
    out = left_out()
    for k,cells in out.items(): print(k, *cells, sep='\n\n')
    assert out.keys()=={'imagenette','any_learner'}
    assert all('run_experiment(' in o for o in out['imagenette'])
    pets, = out['any_learner']
    assert 'vision_learner' in pets

@pytest.mark.parametrize('name', tutorials)
def test_colab(name):
    "A link to Colab below the title, and a first cell that installs there, does nothing elsewhere, and is not on the site"
    title,link,*cells = read_nb(tutorials[name]).cells
    url = f'/fastai-progresize/fastai_progresize/blob/main/nbs/tutorials/{name}.ipynb'
    assert link.source==f'[![Open in Colab](../colab.svg)](https://colab.research.google.com/github{url})'
    first = next(c.source for c in cells if c.cell_type=='code')
    assert first.removeprefix('#| hide\n').startswith('! [ -e /content ] && ')
    assert get_config(root).git_url.removeprefix('https://') in first
    assert first not in pasted(name)

def test_columns():
    "Lines that are shown have at most 80 columns"
    long = [(k, l) for k in tutorials for s,_ in blocks(k) for l in s.splitlines()
            if len(l)>80 and not l.startswith('#|')]
    assert not long, long

@pytest.mark.parametrize('f', ['Learner.fit_progressive', 'Plan', 'Learner.preflight', 'get_dls', 'DataLoaders.at_size',
                               'DataLoaders.fast'])
def test_cheat_sheet(f):
    "A link to the table of all arguments, in the reference, where `test_parameter_tables` finds it"
    page,id = next(v for o in d['syms'].values() for k,(v,_) in o.items() if k.endswith(f'.{f}')).split('#')
    text = '\n'.join(c.source for c in read_nb(tutorials['cheat_sheet']).cells if c.cell_type=='markdown')
    assert f'](../{page}#{id})' in text

@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    home,folder = tmp_path/'home',tmp_path/'current'
    for o in (home,folder): o.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('PYTHONPATH', str(root))
    monkeypatch.delenv('FASTAI_HOME', raising=False)
    return folder

def marked(name):
    return name if name in quick else pytest.param(name, marks=pytest.mark.long)

@pytest.mark.parametrize('name', map(marked, tutorials))
def test_paste(name, empty_home):
    cells = [nbformat.v4.new_code_cell(o) for o in (few_images, *pasted(name))]
    nb = nbformat.v4.new_notebook(cells=cells)
    where = dict(metadata=dict(path=str(empty_home)))
    NotebookClient(nb, timeout=300, kernel_name='python3', resources=where).execute()
