"Every public function and class says what it does and what its arguments are"
import ast, importlib, inspect, json, pytest, re
from dataclasses import is_dataclass
from pathlib import Path
from fastcore.docments import docments
from fastai.callback.core import event
from fastai_progresize._modidx import d

root = Path(__file__).parent.parent
modules = [importlib.import_module(f'fastai_progresize.{o.stem}') for o in sorted((root/'fastai_progresize').glob('*.py')) if o.stem[0]!='_' and o.stem!='all']
public = {o: getattr(m, o) for m in modules for o in m.__all__}

def methods():
    "By name, the methods and properties of the public classes, and what is patched into others"
    for m in modules:
        for o in d['syms'][m.__name__]:
            cls,_,name = o.removeprefix(m.__name__+'.').rpartition('.')
            if not cls or cls.startswith('_') or (name.startswith('_') and name not in ('__init__','__call__')): continue
            f = inspect.getattr_static(getattr(m, cls), name)
            f = getattr(f, '__func__', f)      # of a classmethod
            if inspect.isfunction(f) or isinstance(f, property): yield f'{cls}.{name}',f

members = dict(methods())
documented = {k:o for k,o in public.items() if callable(o) and (not isinstance(o, type) or is_dataclass(o))} | {k:o for k,o in members.items() if not isinstance(o, property)}
units = dict(size='px', sizes='px', presize='px', bs='images', seconds='seconds', figsize='inches')

def test_members():
    "The walk finds methods, properties and patches"
    assert {'Learner.fit_progressive','Learner.preflight','Learner.plot_stages','DataLoaders.at_size','Stages.__init__','Stages.phases','Stages.plot','Stages.to_df','Stages.rel_cost','Stages.index_at',
            'Phase.scheds','SplitCheck.__call__','StageData.at','ScaledImage.create','ProgressiveResize.stage','Experiment.dls','Experiment.scaled','Experiment.learner'}<=members.keys()

@pytest.mark.parametrize('name', [*(k for k,o in public.items() if callable(o)), *members])
def test_docstring(name):
    "An event of a callback needs none, nor `__init__`"
    f = (public|members)[name]
    assert f.__doc__ or name.split('.')[-1] in (*vars(event), '__init__')

@pytest.mark.parametrize('name', documented)
def test_docments(name):
    "Each argument has a type, says what it is, and in which unit; `**kwargs` are documented, or replaced by those that they are"
    f = documented[name]
    params = {k:p for k,p in inspect.signature(f).parameters.items() if k not in ('self','cls')}
    docs = {k: docments(f, full=True, args_kwargs=True).get(k, {}).get('docment') for k in params}
    missing = [k for k in params if not docs[k]]
    assert not missing, missing
    untyped = [k for k,p in params.items() if p.annotation is p.empty and p.kind not in (p.VAR_POSITIONAL,p.VAR_KEYWORD) and p.default in (None,p.empty) and k!='ax']
    assert not untyped, untyped
    theirs = inspect.signature(f.__delwrap__).parameters if hasattr(f, '__delwrap__') else {}      # fastai says it in its own way
    no_unit = [k for k,v in docs.items() if units.get(k, '') not in v and k not in theirs]
    assert not no_unit, no_unit

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

modules = [importlib.import_module(f'fastai_progresize.{o.stem}') for o in sorted((root/'fastai_progresize').glob('*.py')) if o.stem[0]!='_' and o.stem!='all']
public = {o: getattr(m, o) for m in modules for o in m.__all__}
