"""Build the site without Quarto: nbdev's processed notebooks, rendered by smalldocs.

With Quarto, `nbdev-docs` builds the same pages."""
import re, shutil, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.config import load
from smalldocs.site import Site

# Quarto's
_no_problem = re.compile(r'unknown key format-links|format commonmark|format.html.keep-md|.*: output-file is not read')

class NbSite(Site):
    "A site whose pages have the names that nbdev gives them: 01_plan.ipynb is plan.html"
    def __init__(self, src, out, local_url):
        super().__init__(load(src), quiet=True)
        self.out,self.local_url = out,local_url
        self.project.website['llms-txt'] = True     # stands in for Quarto's `commonmark`

    def read(self, src):
        page = super().read(src)
        page.out = page.out.with_name(page.front.get('output-file', page.out.name))
        return page

    def find_page(self, target):
        return next((o for o in self.pages.values() if o.out==target), None) or super().find_page(target)

    def resolve(self, href, *args, **kwargs):
        if self.local_url and href.startswith(self.local_url): href = '/'+href.removeprefix(self.local_url)
        return super().resolve(href, *args, **kwargs)

    def copy_assets(self, nav):
        super().copy_assets(nav)
        for f in self.out.rglob('themes/*.css'):    # no fonts from elsewhere
            f.write_text(re.sub(r'@import url\(https?:[^)]*\);', '', f.read_text(encoding='utf-8')), encoding='utf-8')

    def problems(self): return [o for o in self.warnings if not _no_problem.match(o)]

@call_parse
def main(
    out:str=None, # Folder of the site; None: `doc_path` of settings.ini
    local:bool=False, # Relative links between pages, to read the site from its folder?
):
    "Build the site"
    cfg = get_config()
    out = Path(out or cfg.doc_path).absolute()
    if out.exists() and any(out.iterdir()) and not (out/'site_libs').exists():
        sys.exit(f'{out} is there and is not a site')
    refresh_quarto_yml()
    src = proc_nbs(force=True, n_workers=1)     # one import of fastai for all pages
    with TemporaryDirectory(dir=src, prefix='_') as tmp:
        tmp = Path(tmp)/'site'
        site = NbSite(src, tmp, cfg.doc_url if local else None)
        site.build()
        if site.problems(): sys.exit('\n'.join(site.problems()))
        for f in [*tmp.rglob('*.llms.md'), tmp/'llms.txt']:     # named as in the docstrings of the modules
            f.write_text(f.read_text(encoding='utf-8').replace('.llms.md', '.html.md'), encoding='utf-8')
            f.rename(f.with_name(f.name.replace('.llms.md', '.html.md')))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(tmp, out)
    print(f'{len(site.pages)} pages in {out}')
