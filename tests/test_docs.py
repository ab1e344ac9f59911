"Every public function and class says what it does and what its arguments are"
import importlib, inspect, json, pytest, re
from dataclasses import is_dataclass
from pathlib import Path
from fastcore.docments import docments
from fastai.vision.all import DataLoaders, Learner

root = Path(__file__).parent.parent
modules = [importlib.import_module(f'fastai_progresize.{o.stem}') for o in sorted((root/'fastai_progresize').glob('*.py')) if o.stem[0]!='_' and o.stem!='all']
public = [getattr(m, o) for m in modules for o in m.__all__] + [Learner.fit_progressive, Learner.preflight, Learner.plot_stages, DataLoaders.at_size]

@pytest.mark.parametrize('f', [o for o in public if callable(o)], ids=lambda o: o.__qualname__)
def test_docments(f):
    assert f.__doc__
    if isinstance(f, type) and not is_dataclass(f): f = f.__init__
    sig = inspect.signature(f)
    own = {k for k,p in sig.parameters.items() if p.kind not in (p.VAR_KEYWORD,p.VAR_POSITIONAL) and k!='self'}
    docs = docments(f, full=True)
    missing = [k for k in own if not docs.get(k, {}).get('docment')]
    assert not missing, missing

def test_all_modules_are_in_all():
    "`fastai_progresize.all` has every public name of the library, not of its commands"
    import fastai_progresize.all as a
    for m in modules:
        if m.__name__.endswith('cli'): continue
        for o in m.__all__: assert hasattr(a, o), o

def test_no_paths_of_a_machine():
    "What a notebook has printed tells nothing of where it ran"
    for p in (root/'nbs').rglob('*.ipynb'):
        for c in json.loads(p.read_text())['cells']:
            for o in c.get('outputs', []):
                text = ''.join(o.get('text', [])) + ''.join(''.join(v) for k,v in o.get('data', {}).items() if k.startswith('text/'))
                assert not re.findall(r"(?:^|[\s'\"(=])/(?:tmp|home|root|usr|opt|mnt|Users)/\S*", text), (p.name, text)

patched = {'fit_progressive','preflight','plot_stages','at_size'}

def lessons():
    "The code that the notebooks run and do not export"
    cells = [c for p in (root/'nbs').rglob('*.ipynb') for c in json.loads(p.read_text())['cells'] if c['cell_type']=='code']
    srcs = [''.join(c['source']) for c in cells]
    return '\n'.join(o for o in srcs if not re.search(r'^#\|\s*(export|exporti|eval:\s*false|notest|slow|cuda)', o, re.M))

def test_lessons():
    "Every public name is in code that some notebook runs"
    code = lessons()
    missing = [o for m in modules for o in m.__all__ if not re.search(rf'\b{o}\b', code)] + [o for o in patched if f'.{o}(' not in code]
    assert not missing, missing
