"The site: every link and image of every page, tables of parameters, search, the width of a phone, accessibility"
import importlib, inspect, os, posixpath, pytest, re, shutil, subprocess, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

for o in ('smalldocs','bs4','playwright','axe_playwright_python'):
    pytest.importorskip(o, reason=f'{o} is not installed: pip install -e .[dev], on Python 3.11 or later')
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from filelock import FileLock
from playwright.sync_api import sync_playwright
from fastai_progresize._modidx import d
from nbdev.config import get_config
from test_docs import is_private, members, public, typed

root = Path(__file__).parent.parent
chromium = shutil.which('chromium') or shutil.which('google-chrome')

notebooks = [o.relative_to(root/'nbs') for o in sorted((root/'nbs').rglob('*.ipynb'))]
notebooks = [o for o in notebooks if not any(p[0] in '._' for p in o.parts)]
page_names = [o.with_name(re.sub(r'^\d+[a-z]*_', '', o.stem)+'.html').as_posix() for o in notebooks]

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Folder of the site, with links that work in it, built once for all processes: builds share the folder `_proc`"
    tmp = tmp_path_factory.getbasetemp()
    out = (tmp.parent if 'PYTEST_XDIST_WORKER' in os.environ else tmp)/'site'
    with FileLock(f'{out}.lock'):
        if not out.exists():
            r = subprocess.run([sys.executable, 'tools/docs.py', '--local', '--out', str(out)], cwd=root,
                               capture_output=True, text=True)
            assert r.returncode==0, r.stdout+r.stderr
    return out

@pytest.fixture(scope='module')
def pages(site):
    "The parsed pages by name"
    def _soup(p): return BeautifulSoup(p.read_text(encoding='utf-8'), 'html.parser')
    return {p.relative_to(site).as_posix(): _soup(p) for p in sorted(site.rglob('*.html'))}

def refs(soup): return [o.get('href', o.get('src')) for o in soup.select('a[href], link[href], img[src], script[src]')]
def is_outside(o): return re.match(r'[a-z]+:|//', o)

def in_sidebar(soup, within='#quarto-sidebar'):
    "Pages of the sidebar in order, without its sections, which fold"
    links = soup.select(f'{within} a.sidebar-link[href]:not([href^="#"])')
    return [posixpath.normpath(o['href']) for o in links]

def test_every_notebook_is_a_page(pages):
    names = set(page_names)
    assert names==set(pages)
    side = in_sidebar(pages['index.html'])
    assert side[0]=='index.html' and set(side)==names
    some = 'tutorials/speed','learner','plan','load/folder','load/fast','data','apps/commands','load/files','apps/folder'
    order = [side.index(o+'.html') for o in some]
    assert order==sorted(order)

def sections(soup):
    "Pages of each section of the sidebar, in order"
    return {o.select_one('.menu-text').text: in_sidebar(o, 'ul') for o in soup.select('li.sidebar-item-section')}

def is_typed(module):
    "Does a user type a name of it, or a method that it patches into a class of fastai's?"
    names = [o.removeprefix(module+'.') for o in d['syms'][module]]
    methods = [o for o in names if o.startswith(('Learner.','DataLoaders.')) and not is_private(o)]
    return importlib.import_module(module).__all__ or methods

def test_sidebar(pages):
    "What `from fastai_progresize.all import *` brings is in Reference, and after it, folded, what a user does not call"
    got = sections(pages['index.html'])
    assert [o for o in got if o!='Help'][:4]==['Tutorials','Benchmarks','Reference','Internals']
    assert got['Benchmarks']==['tutorials/evidence.html','tutorials/speed.html']
    source = (root/'fastai_progresize/all.py').read_text()
    brings = re.findall(r'^from fastai_progresize\.([\w.]+) import', source, re.M)
    brings = {o for o in brings if is_typed(f'fastai_progresize.{o}')}
    n = len(got['Internals'])
    called,internal = got['Reference'][:-n],got['Reference'][-n:]
    assert {o.replace('.', '/')+'.html' for o in brings} | {'apps/commands.html'}==set(called)
    assert internal==got['Internals']
    folded = [o for o in pages['index.html'].select('li.sidebar-item-section') if o.find('a')['aria-expanded']=='false']
    assert folded[0].select_one('.menu-text').text=='Internals'
    for o in ('load','checks','resume','apps'): assert {p.split('/')[0] for p in got[o]}=={o}      # its rooms

def test_links_and_images(site, pages):
    bad = []
    for name,soup in pages.items():
        for o in refs(soup):
            if is_outside(o): continue
            path,anchor = map(unquote, urldefrag(o))
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if (site/target).is_dir(): target = posixpath.normpath(posixpath.join(target, 'index.html'))
            if not (site/target).is_file(): bad.append((name, o))
            elif anchor and not pages[target].find(id=anchor): bad.append((name, o))
    assert not bad, bad

def test_images_have_alt_text(pages):
    bad = [(k, o.find_parent(class_='cell') and o.find_parent(class_='cell')['id'])
           for k,soup in pages.items() for o in soup.select('img') if not o.get('alt')]
    assert not bad, bad

def test_no_markdown_is_shown(pages):
    "Neither a link in a link nor another mark: that is, no `](` or `**` in a text"
    for k,soup in pages.items():
        for o in soup.select('main :is(p, li, td)'):
            text = ''.join(t for t in o.find_all(string=True) if not t.find_parent('code'))
            assert not re.search(r'\]\(|\*\*', text), (k, text)

def test_colons_lead_to_something(pages):
    "What follows a sentence that ends with a colon is not code that the site hides"
    for k,soup in pages.items():
        for o in soup.select('main p'):
            if not o.text.rstrip().endswith(':'): continue
            after = o.find_next(['p','h1','h2','h3','h4','nav','pre','table','ul','ol','dl','img','blockquote'])
            assert after.name not in ('h1','h2','h3','h4','nav') and (after.name!='p' or after.find_parent(class_='cell')), (k, o)

def test_head(site, pages):
    "The address of each page, and the picture that a link to it is shown with"
    base = get_config(root).doc_url
    for k,soup in pages.items():
        assert soup.find('link', rel='canonical')['href']==base+k.removesuffix('index.html')
        image = soup.find('meta', property='og:image')['content']
        assert image.startswith(base) and (site/image.removeprefix(base)).is_file()

def test_frame(pages):
    "Navbar with the repository, previous and next, links to the source, footer"
    url = get_config(root).git_url
    for k,soup in pages.items():
        assert soup.select_one(f'.navbar a[href="{url}"]') and soup.select_one('.quarto-color-scheme-toggle'), k
        assert soup.select('.page-navigation a') and soup.find('footer').text.strip(), k
        nb = notebooks[page_names.index(k)].as_posix()
        assert soup.select_one(f'.toc-actions a[href="{url}/blob/main/nbs/{nb}"]'), k

def test_nothing_comes_from_outside(pages):
    "The site can be read without internet"
    for name,soup in pages.items():
        for o in soup.select('script[src], img[src], link[rel=stylesheet]'):
            assert not re.match('(https?:)?//', o.get('href', o.get('src'))), (name, o)

def table_of(soup, id):
    "Cells of the table of parameters under the heading with this id"
    rows = [[c.text for c in o.select('td')] for o in soup.find(id=id).parent.select('table tr')]
    return {r[0]: r[1:] for r in rows if r}

symbols = {k: v for o in d['syms'].values() for k,(v,_) in o.items()}

def is_ours(o): return inspect.isroutine(o) or (isinstance(o, type) and '__init__' in vars(o))
defined = [o for k,o in public.items() if is_ours(o) and k in typed]   # not classes with the arguments of fastai's
# what is patched into classes; `__init__` and other methods of our own are in the table of their class
ours = ('Plan.for_learner','Plan.filled')
def is_patched(k): return k in ours or k.startswith(('Learner.','DataLoaders.'))
patched = [o for k,o in members.items() if inspect.isfunction(o) and is_patched(k)]

@pytest.mark.parametrize('f', defined+patched, ids=lambda o: o.__qualname__)
def test_parameter_tables(pages, f):
    "Every function and class that a user types has its parameters in a table"
    name = rf'fastai_progresize\.[\w.]+\.{f.__qualname__}'
    page,id = next(v for k,v in symbols.items() if re.fullmatch(name, k)).split('#')
    args = inspect.signature(f).parameters
    own = [k for k,p in args.items() if p.kind not in (p.VAR_KEYWORD,p.VAR_POSITIONAL) and k!='self']
    assert set(own) <= set(table_of(pages[page], id))

def test_docment_of_n_epoch(pages):
    rows = table_of(pages['learner.html'], 'learner.fit_progressive')
    assert rows['n_epoch'][:1]==['int | tuple | list'] and rows['n_epoch'][-1].startswith('Epochs of the whole model')
    assert rows['fit'][:1]==['str'] and 'fine_tune' in rows['fit'][-1]

def test_docment_of_kwargs(pages):
    "What is said of `**kwargs` is in its row, not in that of the result"
    rows = table_of(pages['apps/folder.html'], 'fit_folder')
    assert 'get_dls' in rows['kwargs'][-1] and 'get_dls' not in rows['Returns'][-1]

@pytest.mark.parametrize('page,text,url', [
    ('index.html', 'Learner', 'https://docs.fast.ai/learner.html#learner'),
    ('tutorials/questions.html', 'CSVLogger', 'https://docs.fast.ai/callback.progress.html#csvlogger'),
    ('learner.html', 'fine_tune', 'https://docs.fast.ai/callback.schedule.html#learner.fine_tune'),
    ('preflight.html', 'fit_progressive', 'learner.html#learner.fit_progressive'),
])
def test_symbols_are_links(pages, page, text, url):
    links = [o for o in pages[page].select('main a') if o.text==text and o.find('code')]
    assert links and {o['href'] for o in links}=={url}

def test_front_page(pages):
    main = pages['index.html'].find('main')
    assert len(main.select('.cell-output img'))>=1 and len(main.select('table'))>=2     # a picture, results, others

def test_llms(site, pages):
    "Plain text for language models: an index of all pages, and a copy of each"
    text = (site/'llms.txt').read_text()
    for o in pages: assert f'/{o}.md)' in text and (site/f'{o}.md').exists(), o
    assert re.findall(r'^- \[.+?\]\(\S+?fastai_progresize/(\S+)\.md\): \S', text, re.M)==in_sidebar(pages['index.html'])

@pytest.fixture(scope='module')
def browser():
    if not chromium: pytest.skip('no chromium to look at the site with: apt-get install chromium')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield b
        b.close()

class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def url(site):
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(params=[1280,390], ids='wide phone'.split())
def tab(browser, url, request):
    "A tab of the browser, wide or as a phone's, that fails on errors and on requests to elsewhere"
    tab,bad = browser.new_page(base_url=url, viewport={'width':request.param, 'height':844}),[]
    tab.on('console', lambda o: bad.append(o.text) if o.type in ('error','warning') else None)
    tab.on('pageerror', lambda o: bad.append(str(o)))
    tab.on('request', lambda o: None if o.url.startswith((url,'data:')) else bad.append(o.url))
    yield tab
    tab.close()
    assert not bad, bad

# what is wider than the window and not in a box that scrolls
WIDE = """[...document.querySelectorAll('body *')].filter(o => {
    if (o.getBoundingClientRect().right <= innerWidth+1 || !o.checkVisibility()) return false
    for (let p = o.parentElement; p; p = p.parentElement)
        if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return false
    return true }).map(o => o.outerHTML.slice(0, 200))"""

# code, output and tables that scroll to the side
SCROLL = """[...document.querySelectorAll('main :is(pre, table, .sd-table, .cell-output-display)')].filter(
    o => o.clientWidth && o.scrollWidth>o.clientWidth).map(o => o.outerHTML.slice(0, 200))"""

def check_page(tab, page):
    assert tab.goto(page).ok
    assert tab.evaluate('document.documentElement.scrollWidth - innerWidth')<=0, f'{page} scrolls to the side'
    wide = tab.evaluate(WIDE)
    assert not wide, (page, wide)
    complete = '[...document.images].every(o => o.complete && o.naturalWidth)'
    assert tab.evaluate(complete), f'{page} lacks an image'

    if tab.viewport_size['width']>=1280:
        scroll = tab.evaluate(SCROLL)
        assert not scroll, (page, scroll)

some = 'index.html','learner.html','tutorials/evidence.html','tutorials/speed.html'

@pytest.mark.parametrize('page', [o if o in some else pytest.param(o, marks=pytest.mark.long) for o in page_names])
def test_page_in_browser(tab, page): check_page(tab, page)

def test_columns_of_code(browser, url):
    "Lines of 88 columns are whole at 1280 px, with 16 px for a scroll bar"
    tab = browser.new_page(base_url=url, viewport=dict(width=1264, height=844))
    tab.goto('learner.html')
    heights = tab.evaluate("""[8, 88, 188].map(n => {
        const o = document.querySelector('main pre.cell-code > code')
        o.textContent = '0'.repeat(n)
        return o.getBoundingClientRect().height })""")
    assert heights[0]==heights[1]<heights[2]
    tab.close()

def check_accessible(tab, page):
    "No serious issue for those who see little, read by ear or have no mouse"
    tab.goto(page)
    issues = [o for o in Axe().run(tab).response['violations'] if o['impact'] in ('serious','critical')]
    assert not issues, (page, [(o['id'], [n['html'][:200] for n in o['nodes'][:5]]) for o in issues])

@pytest.mark.parametrize('scheme', ['light','dark'])
@pytest.mark.parametrize('page', ['index','tutorials/quick_start','tutorials/any_learner','tutorials/evidence'])
@pytest.mark.every(3)
def test_accessible(browser, url, page, scheme):
    tab = browser.new_page(base_url=url, viewport=dict(width=1280, height=844), color_scheme=scheme)
    check_accessible(tab, f'{page}.html')
    tab.close()

@pytest.mark.long
@pytest.mark.parametrize('scheme', ['light','dark'])
def test_all_accessible(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    for o in page_names: check_accessible(tab, o)

def test_keyboard(browser, url):
    "The first key leads past the navigation; a section of the sidebar unfolds and folds without a mouse"
    tab = browser.new_page(base_url=url)
    tab.goto('learner.html')
    tab.keyboard.press('Tab')
    tab.keyboard.press('Enter')
    assert tab.url.endswith('#quarto-document-content')
    section = tab.locator('#quarto-sidebar a', has_text='Internals')
    room = tab.locator('#quarto-sidebar a', has_text='The run')
    section.focus()
    for expanded,state in (('true','visible'),('false','hidden')):
        tab.keyboard.press('Enter')
        room.wait_for(state=state, timeout=5000)
        assert section.get_attribute('aria-expanded')==expanded
        tab.wait_for_function("!document.querySelector('.collapsing')")
    tab.close()

def test_phone(browser, url):
    "Search is there at once, and so are the contents of the page"
    tab = browser.new_page(base_url=url, viewport=dict(width=390, height=844))
    tab.goto('learner.html')
    tab.locator('.smalldocs-search input').fill('at_size')
    box = tab.locator('.smalldocs-search-results')
    box.wait_for(timeout=20_000)
    box = box.bounding_box()
    assert box['x']>=0 and box['x']+box['width']<=390
    tab.keyboard.press('Escape')
    tab.locator('#TOC-body summary').click()
    tab.locator('#TOC-body a').first.click()
    assert '#' in tab.url
    tab.close()

@pytest.mark.parametrize('word', ['fit_progressive','at_size','leak'])
@pytest.mark.every(2)
def test_search(tab, word):
    tab.goto('learner.html')
    if tab.viewport_size['width']<992: tab.locator('.navbar-toggler').click()
    tab.locator('.smalldocs-search input:visible').fill(word)
    first = tab.locator('.search-result').first
    first.wait_for(timeout=20_000)
    assert word in first.inner_text().lower()
    first.click()
    assert word in tab.locator('main').inner_text().lower()
