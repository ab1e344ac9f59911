"How the docs show a symbol and link to it: read by nbdev, see `[tool.nbdev]` in pyproject.toml"
import re
from importlib import import_module
from fastcore.basics import first, noop
from fastcore.docments import DocmentTbl, DocmentText, docments, empty, isdataclass
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
        self._add_kwargs()
        self.table.params = [k for k in self.table.params if self.table.dm[k].docment!=empty]     # not a bare `kwargs`
        if isinstance(self.dm, DocmentText):
            for o in self.dm.dm.values(): o.update(anno=empty, docment=None)    # they are in the table

    def _add_kwargs(self):
        "What is said of `**kwargs`, which `DocmentTbl` takes for what is said of the result"
        if 'kwargs' not in self.table.dm: return
        dm = docments(self.sym, full=True, args_kwargs=True)
        for k in ('kwargs','return'):
            if k in dm: self.table.dm[k].docment = dm[k].docment or empty

    def _repr_markdown_(self): return f'{super()._repr_markdown_()}\n\n{self.table}'

# a link or an image, from `[` to `)`
_re_link = re.compile(r'\[(?:`[^`]*`|[^\]`])*\]\([^)]*\)')
_re_method = re.compile(r'(?<!\[)`((?:learn\.dls|learn|dls)\.)?(\w+)(\([^`]*\))?`')

class MethodLookup(NbdevLookup):
    "Links symbols, and methods as they are written in text: `learn.fit_progressive`, `fine_tune`, `dls.at_size(128)`"
    def _link_method(self, m):
        pre,nm,call = m.groups()
        names = (nm, f'Learner.{nm}', f'DataLoaders.{nm}')[bool(pre):]
        url = (pre or call or '_' in nm) and first(map(self.doc, names), noop)
        return f'[{m[0]}]({url})' if url else m[0]

    def link_line(self, l): return _re_method.sub(self._link_method, super().link_line(l))

    def linkify(self, md):
        "Links in `md`, but none inside a link, which would show its Markdown"
        if not md: return md
        links = []
        def _hide(m):
            links.append(m[0])
            return f'\0{len(links)-1}\0'
        return re.sub('\0(\\d+)\0', lambda m: links[int(m[1])], super().linkify(_re_link.sub(_hide, md)))

def link_methods(cell):
    "In place of nbdev's `add_links`, which wants `Learner.fit_progressive`, and links inside of links"
    nl = MethodLookup()
    if cell.cell_type=='markdown': cell.source = nl.linkify(cell.source)
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'text/markdown' in data: data['text/markdown'] = nl.linkify(''.join(data['text/markdown']))
