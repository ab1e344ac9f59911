"Every function and class says what it does; those that a user types, what their arguments are"
import ast, importlib, inspect, json, pytest, re
from dataclasses import is_dataclass
from pathlib import Path
from fastcore.docments import docments
from fastai.callback.core import event
from fastai_progresize._modidx import d

root = Path(__file__).parent.parent
symbols = d['syms']
modules = {k: importlib.import_module(k) for k in symbols}

def is_private(name): return any(o.startswith('_') for o in name.split('.'))

def public_names():
    "By module, the functions and classes that it defines, in `__all__` or not, but for private ones"
    for m,syms in symbols.items():
        names = [o.removeprefix(m+'.') for o in syms]
        yield modules[m],[o for o in names if '.' not in o and not is_private(o)]

public = {o: getattr(m, o) for m,names in public_names() for o in names if hasattr(m, o)}

def methods():
    "By name, the methods and properties of the public classes, and what is patched into others"
    for m,syms in symbols.items():
        for o in syms:
            cls,_,name = o.removeprefix(m+'.').rpartition('.')
            if not cls or cls.startswith('_'): continue
            if name.startswith('_') and name not in ('__init__','__call__'): continue
            f = inspect.getattr_static(getattr(modules[m], cls), name)
            f = getattr(f, '__func__', f)      # of a classmethod
            if inspect.isfunction(f) or isinstance(f, property): yield f'{cls}.{name}',f

def has_arguments(o): return callable(o) and (not isinstance(o, type) or is_dataclass(o))

members = dict(methods())
typed = {'Learner','DataLoaders'} | {o for m in modules.values() for o in m.__all__}      # the names that a user types
documented = {k:o for k,o in public.items() if has_arguments(o) and k in typed}
documented |= {k:o for k,o in members.items() if not isinstance(o, property) and k.split('.')[0] in typed}
documented['Run.__init__'] = members['Run.__init__']         # `learn.preflight` passes its arguments on
units = dict(size='px', sizes='px', presize='px', bs='images', seconds='seconds', figsize='inches')

def test_members():
    "The walk finds methods, properties and patches"
    assert {'Learner.fit_progressive','Learner.preflight','Learner.plot_stages','DataLoaders.at_size',
            'DataLoaders.fast','Plan.__init__','Plan.phases','Plan.plot','Plan.to_df','Plan.rel_cost','Plan.stage_at',
            'Plan.phase_at','Plan.for_learner','Phase.scheds','SplitCheck.__call__','Run.stage_dls','Run.try_dls',
            'ScaledImage.create','StageRecorder.size_metric','Experiment.dls','Experiment.scaled',
            'Experiment.learner'}<=members.keys()
    assert {'Plan','Stage','Run','hw','copy_dl','fast_works','presized_file','run_state','try_stage','check_run'}<=public.keys()
    for m in modules.values(): assert set(m.__all__)<=public.keys() | set(vars(m))

def test_what_is_documented():
    "What a user reaches, and not more"
    assert {'Learner.fit_progressive','Learner.preflight','Learner.validate_sizes','DataLoaders.at_size','Plan.plot',
            'DataLoaders.fast','Plan.__init__','Plan.for_learner','Stage','get_dls','glyphs','run_experiment',
            'progresize_fit','fit_folder','Experiment.scaled','ProgressiveResize.__init__'}<=documented.keys()
    assert not {'hw','copy_dl','run_state','Run.stage_dls','ScaledImage.create'} & documented.keys()

@pytest.mark.parametrize('name', [*(k for k,o in public.items() if callable(o)), *members])
def test_docstring(name):
    "An event of a callback needs none, nor `__init__`"
    f = (public|members)[name]
    assert f.__doc__ or name.split('.')[-1] in (*vars(event), '__init__')

@pytest.mark.parametrize('name', documented)
def test_docments(name):
    "Each argument has a type, says what it is, and in which unit; `**kwargs` too, or they are replaced"
    f = documented[name]
    params = {k:p for k,p in inspect.signature(f).parameters.items() if k not in ('self','cls')}
    docs = {k: docments(f, full=True, args_kwargs=True).get(k, {}).get('docment') for k in params}
    missing = [k for k in params if not docs[k]]
    assert not missing, missing
    def is_untyped(p):
        if p.kind in (p.VAR_POSITIONAL,p.VAR_KEYWORD): return False
        return p.annotation is p.empty and (p.default is None or p.default is p.empty)
    untyped = [k for k,p in params.items() if is_untyped(p) and k!='ax']
    assert not untyped, untyped
    # of arguments that are fastai's, fastai says it in its own way
    theirs = inspect.signature(f.__delwrap__).parameters if hasattr(f, '__delwrap__') else {}
    no_unit = [k for k,v in docs.items() if units.get(k, '') not in v and k not in theirs]
    assert not no_unit, no_unit

def test_all_modules_are_in_all():
    "`fastai_progresize.all` has the `__all__` of every module but those that are imported by name"
    import fastai_progresize.all as a
    for k,m in modules.items():
        if k.split('.')[-1] in ('samples','experiments','book','folder','commands') or k.endswith('load.augment'): continue
        for o in m.__all__: assert hasattr(a, o), o

def outputs(nb):
    "The texts that the cells of a notebook have printed or shown"
    for c in json.loads(nb.read_text())['cells']:
        for o in c.get('outputs', []):
            yield ''.join(o.get('text', []))
            yield from (''.join(v) for k,v in o.get('data', {}).items() if k.startswith('text/'))

def test_no_paths_of_a_machine():
    "What a notebook has printed tells nothing of where it ran"
    for p in (root/'nbs').rglob('*.ipynb'):
        for text in outputs(p):
            assert not re.findall(r"(?:^|[\s'\"(=])/(?:tmp|home|root|usr|opt|mnt|Users)/\S*", text), (p.name, text)
