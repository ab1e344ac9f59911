"How the docs show a symbol and link to it: read by nbdev, see `[tool.nbdev]` in pyproject.toml"
import re
from importlib import import_module
from fastcore.basics import first, noop
from fastcore.docments import DocmentTbl, DocmentText, empty, isdataclass
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer

def _exported(sym):
    "`sym` of the module that has it: a dataclass of a notebook has no source to read docments from"
    found = NbdevLookup()[sym.__name__]
    return getattr(import_module(found[1].removesuffix('.py').replace('/', '.')), sym.__name__) if found else sym

class TableRenderer(BasicMarkdownRenderer):
    "The signature, what it does, and a table of its parameters"
    def __init__(self, sym, **kwargs):
        super().__init__(sym, maxline=72, **kwargs)
        self.nm = self.nm.replace('__', r'\_\_')
        self.table = DocmentTbl(_exported(self.sym) if isdataclass(self.sym) else self.sym)
        self.table.params = [k for k in self.table.params if self.table.dm[k].docment!=empty]     # not a bare `kwargs`
        if isinstance(self.dm, DocmentText):
            for o in self.dm.dm.values(): o.update(anno=empty, docment=None)    # they are in the table

    def _repr_markdown_(self): return f'{super()._repr_markdown_()}\n\n{self.table}'

_re_method = re.compile(r'(?<!\[)`((?:learn\.dls|learn|dls)\.)?(\w+)(\([^`]*\))?`')

class MethodLookup(NbdevLookup):
    "Links methods as they are written in text: `learn.fit_progressive`, `fine_tune`, `dls.at_size(128)`"
    def _link_method(self, m):
        pre,nm,call = m.groups()
        names = (nm, f'Learner.{nm}', f'DataLoaders.{nm}')[bool(pre):]
        url = (pre or call or '_' in nm) and first(map(self.doc, names), noop)
        return f'[{m[0]}]({url})' if url else m[0]

    def link_line(self, l): return _re_method.sub(self._link_method, l)

def link_methods(cell):
    "Add the links that nbdev's own lookup, which wants `Learner.fit_progressive`, does not find"
    nl = MethodLookup()
    if cell.cell_type=='markdown': cell.source = nl.linkify(cell.source)
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'text/markdown' in data: data['text/markdown'] = nl.linkify(''.join(data['text/markdown']))
