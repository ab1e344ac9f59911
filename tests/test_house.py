"The house does not grow unseen: lines, methods from elsewhere, imports for a side effect, long cells. Numbers only fall"
import ast, json, re
import pytest
from pathlib import Path

root = Path(__file__).parent.parent
package = root/'fastai_progresize'
files = {o: ast.parse(o.read_text()) for o in sorted(package.rglob('*.py')) if o.stem not in ('_modidx','__init__')}
notebooks = sorted(o for o in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)

def is_ours(o): return isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').startswith(package.name))

def patched_elsewhere():
    "Methods that a module patches onto a class of another"
    home = {o.name: f for f,tree in files.items() for o in tree.body if isinstance(o, ast.ClassDef)}
    for f,tree in files.items():
        for o in tree.body:
            if not isinstance(o, ast.FunctionDef) or not o.args.args: continue
            cls = ast.unparse(o.args.args[0].annotation) if o.args.args[0].annotation else ''
            is_patch = any('patch' in ast.unparse(d) for d in o.decorator_list)
            if is_patch and home.get(cls, f)!=f: yield f'{f.stem}: {cls}.{o.name}'

def side_effects():
    "Imports of our own modules and names that nothing uses"
    for f,tree in files.items():
        if f.stem=='all': continue
        used = {o.id for o in ast.walk(tree) if isinstance(o, ast.Name)}
        for o in tree.body:
            names = [a.asname or a.name for a in o.names if a.name!='*'] if is_ours(o) else []
            if isinstance(o, ast.Import): names = [a.name for a in o.names if a.name.startswith(package.name+'.')]
            for k in names:
                if k not in used: yield f'{f.stem}: {k}'

def is_exported(cell): return cell['cell_type']=='code' and re.search(r'^#\|\s*export', ''.join(cell['source']), re.M)

def long_cells():
    for f in notebooks:
        for c in json.loads(f.read_text())['cells']:
            n = len(''.join(c['source']).strip().splitlines())
            if is_exported(c) and n>40: yield f'{f.stem}: {n} lines'

def cells_in_a_row():
    "Four exported cells or more without a sentence or a result between them"
    for f in notebooks:
        n = 0
        for c in json.loads(f.read_text())['cells']:
            if is_exported(c): n += 1
            elif c['cell_type']!='code' or c['outputs']: n = 0
            if n==4 and is_exported(c): yield f.stem

def long_modules(): return (f'{f.stem}: {n}' for f in files if (n := len(f.read_text().splitlines()))>300)
def wide_lines(): return (f.stem for f in files for o in f.read_text().splitlines() if len(o)>120)

def lines(): return sum(len(f.read_text().splitlines()) for f in files)
def characters(): return sum(len(f.read_text()) for f in files)

reached = dict(lines=7004, characters=344633, patched_elsewhere=0, side_effects=0,
               long_cells=0, cells_in_a_row=0, long_modules=0, wide_lines=0)

@pytest.mark.parametrize('what', reached)
def test_does_not_grow(what):
    "A number that has fallen is to be written here"
    found = globals()[what]()
    n = found if isinstance(found, int) else len(found := list(found))
    assert n<=reached[what], found
