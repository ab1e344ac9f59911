"What an import brings and what it leaves alone; and that no module imports one that comes after it"
import ast, subprocess, sys
from pathlib import Path

package = Path(__file__).parent.parent/'fastai_progresize'

names = ['Checkpoint', 'FitComparison', 'Plan', 'Preflight', 'ProgressiveResize', 'ProgressiveSchedule', 'Stage',
         'clear_cache', 'compare_fits', 'compare_runs', 'default_sizes', 'find_faults', 'get_dls', 'presize_images',
         'read_checkpoint', 'show_runs', 'show_stages']

order = ['args', 'utils', 'resume.plain', 'resume.leaf', 'resume.walk', 'schedule', 'stage', 'load.files', 'data',
         'plan_args', 'plan', 'load.disk', 'load.pixels', 'load.cache', 'load.read', 'load.augment', 'load.batches',
         'load.fast', 'load.folder', 'aug', 'checks.looks', 'checks.split', 'checks.trial', 'checks.task', 'run',
         'preflight', 'callbacks', 'report.history', 'report.validate', 'report.show', 'resume.state', 'resume.same',
         'resume.file', 'resume.checkpoint', 'learner', 'report.compare', 'all', 'samples', 'apps.log',
         'apps.experiments', 'apps.book', 'apps.folder', 'apps.commands']

def python(code):
    "What `code` prints in a process of its own"
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return r.stdout.splitlines()

def test_names_of_all():
    "At most 30 names, each one that a user would type"
    code = """
from fastai.vision.all import *
before = set(globals())
from fastai_progresize.all import *
print(*sorted(set(globals()) - before - {'before'}), sep='\\n')"""
    got = python(code)
    assert got==names
    assert len(got)<=30

def imported(file):
    "Modules of the package that `file` imports, as in `order`"
    here = file.relative_to(package).with_suffix('').parts
    for o in ast.walk(ast.parse(file.read_text())):
        if not isinstance(o, ast.ImportFrom): continue
        if o.level:
            base = here[:len(here)-o.level]
            parts = [*base, *(o.module.split('.') if o.module else [])]
        elif o.module and o.module.split('.')[0]=='fastai_progresize': parts = o.module.split('.')[1:]
        else: continue
        name = '.'.join(parts)
        if name in order: yield name
        else: yield from ('.'.join([*parts, a.name]) for a in o.names)       # `from . import loaders`

def modules():
    return {'.'.join(f.relative_to(package).with_suffix('').parts): f for f in package.rglob('*.py') if f.stem[0]!='_'}

def test_every_module_has_its_place(): assert set(modules())==set(order)

def test_no_arrow_upward():
    "A module imports only those before it, so that there is no circle either"
    for name,file in modules().items():
        for o in imported(file): assert order.index(o)<order.index(name), f'{name} imports {o}'

snapshot = '''
import enum, inspect, sys, types, warnings
import fastai.vision.all, fastai.callback.all, fastai.distributed, accelerate, torch, PIL.Image, PIL.JpegImagePlugin
import matplotlib.pyplot as plt
from fastai.vision.all import *
roots = ('fastai.','fastcore.','fasttransform.','PIL.','torch.','accelerate.','torchvision.')

def classes():
    for m in [o for k,o in list(sys.modules.items()) if k.startswith(roots) and isinstance(o, types.ModuleType)]:
        for o in list(vars(m).values()):
            if isinstance(o, type) and o.__module__.startswith(roots): yield o

def methods(f): return [m.signature for m in getattr(f, 'methods', [])]

def state():
    res = {f'{c.__module__}.{c.__qualname__}.{k}': (id(v), str(methods(v))) for c in set(classes())
           for k,v in vars(c).items() if k[:5]!='_abc_' and not k.startswith('__')}
    pillow = [(m.__name__, vars(m)) for m in (PIL.Image, PIL.JpegImagePlugin)]
    res |= {f'{name}.{k}': id(v) for name,os in pillow for k,v in os.items() if callable(v)}
    res |= {f'rc {k}': str(v) for k,v in plt.rcParams.items()}
    res |= dict(filters=list(warnings.filters), registries=[list(PIL.Image.OPEN), dict(PIL.Image.EXTENSION)],
                torch=[torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()],
                cudnn=[torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
                random=[random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()],
                defaults=str(defaults.callbacks))
    return res
'''

def test_import_changes_nothing():
    "Learners that do not use it are as without it: classes of fastai and others only have the documented methods more"
    code = snapshot + '''
before = state()
import fastai_progresize.all
after = state()
for k in sorted(before.keys() | after.keys()):
    if before.get(k)!=after.get(k): print(k)
'''
    added = [f'fastai.data.core.DataLoaders.{o}' for o in ('at_size','fast','with_aug')]
    added += [f'fastai.learner.Learner.{o}' for o in ('fit_progressive','plot_stages','preflight','stage_history',
                                                        'validate_sizes')]
    assert python(code)==added

def test_snapshot_sees_changes():
    "What the test above compares does see a method more of `ToTensor`, another function, another flag"
    code = snapshot + '''
before = state()
class Mine(PILImage): pass
def encodes(self, o:Mine): return o
ToTensor.encodes.dispatch(encodes)
fastai.distributed.DistributedDL._broadcast = lambda *args: None
warnings.simplefilter('ignore')
after = state()
for k in sorted(before.keys() & after.keys()):
    if before[k]!=after[k]: print(k)
'''
    got = python(code)
    assert any(o.endswith('ToTensor.encodes') for o in got) and 'filters' in got, got
    assert 'fastai.distributed.DistributedDL._broadcast' in got
