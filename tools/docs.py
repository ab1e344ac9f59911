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
from smalldocs.layout import SiteNav
from smalldocs.site import Site

sys.path.insert(0, str(Path(__file__).parent.parent))      # `tools.showdoc`, which pyproject.toml names

# Quarto's
_no_problem = re.compile(r'unknown key format-links|format commonmark|.*: output-file is not read|'
                         r'format.html.(keep-md|grid|canonical-url) is ignored')

# corrections of the HTML that smalldocs writes: pattern, replacement
_replace = [(re.compile(a, re.S), b) for a,b in (
    # icons are decoration, not images
    (r'(<i [^>]*)role="img"', r'\1aria-hidden="true"'),
    # sections of the sidebar: buttons in tab order, each once
    (r'data-bs-target="(#[^"]+)" role="navigation"', r'data-bs-target="\1" href="\1" role="button"'),
    (r'(<a [^>]*aria-label="Toggle section")', r'\1 tabindex="-1" aria-hidden="true"'),
    (r'<a (class="quarto-color-scheme-toggle)', r'<a role="button" aria-label="Dark mode" \1'),
    # search next to the menu, not in it, as a phone hides the menu
    (r'(<button class="navbar-toggler".*?)(<div class="quarto-navbar-tools">.*?dropdown-menu"></div></div></div>)',
     r'\2\1'),
    # tables scroll on a phone, also by keyboard
    (r'(<div class="cell-output cell-output-display)">(?=\s*<(?:div|style|table))',
     r'\1" tabindex="0" role="group" aria-label="Table">'),
    (r'(<div class="sd-table)">', r'\1" tabindex="0" role="group" aria-label="Table">'),
    # a name for each landmark
    (r'<nav (class="navbar )', r'<nav aria-label="Site" \1'),
    (r'<nav (class="quarto-secondary-nav)', r'<nav aria-label="This page" \1'),
    (r'<nav (id="quarto-sidebar")', r'<nav aria-label="Pages" \1'),
    (r'<div (id="quarto-margin-sidebar")', r'<div role="complementary" aria-label="On this page" \1'),
    (r'<nav (class="page-navigation)', r'<nav aria-label="Previous and next page" \1'),
    # on a phone the table of contents is collapsed
    (r'<nav [^>]*id="TOC-body"[^>]*><h2>(.*?)</h2>(.*?)</nav>',
     r'<details id="TOC-body"><summary>\1</summary><nav aria-label="\1">\2</nav></details>'),
)]

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
        for f in self.out.rglob('themes/*.css'):    # no fonts from other servers
            f.write_text(re.sub(r'@import url\(https?:[^)]*\);', '', f.read_text(encoding='utf-8')), encoding='utf-8')

    def write_llms_txt(self):
        "Each page with its description, in the sections and the order of the sidebar"
        web = self.project.website
        def _line(o):
            md = o.page.out.with_suffix('.llms.md')
            return f"- [{o.page.title}]({web['site-url']}/{md}): {o.page.front.get('description', '')}"
        lines = [f"# {web['title']}", f"\n> {web['description']}\n"]
        def _pages(o): return [p for c in o.children for p in _pages(c)] if o.section else [o]
        for o in SiteNav(self).sidebars[0]['items']:
            lines += [f'\n## {o.text}\n', *map(_line, _pages(o))] if o.section else [_line(o)]
        (self.out/'llms.txt').write_text('\n'.join(lines)+'\n', encoding='utf-8')

    def finish(self):
        "Add what smalldocs lacks: canonical links, and fixes for keyboards, screen readers and phones"
        for page in self.pages.values():
            f = self.out/page.out
            text = f.read_text(encoding='utf-8')
            for a,b in _replace: text = a.sub(b, text)
            url = f"{self.project.website['site-url']}/{page.out}".removesuffix('index.html')
            f.write_text(text.replace('</head>', f'<link rel="canonical" href="{url}"></head>', 1), encoding='utf-8')

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
        sys.exit(f'{out} exists and is not a site')
    refresh_quarto_yml()
    src = proc_nbs(force=True, n_workers=1)     # one import of fastai for all pages
    with TemporaryDirectory(dir=src, prefix='_') as tmp:
        tmp = Path(tmp)/'site'
        site = NbSite(src, tmp, cfg.doc_url if local else None)
        site.build()
        site.finish()
        if site.problems(): sys.exit('\n'.join(site.problems()))
        for f in [*tmp.rglob('*.llms.md'), tmp/'llms.txt']:     # named as in the docstrings of the modules
            f.write_text(f.read_text(encoding='utf-8').replace('.llms.md', '.html.md'), encoding='utf-8')
            f.rename(f.with_name(f.name.replace('.llms.md', '.html.md')))
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(tmp, out)
    print(f'{len(site.pages)} pages in {out}')
