"""Whatever an argument is, a call succeeds or ends in a `ValueError` or `TypeError`, and after an error the Learner is
as it was. Tables and plots may leave it to pandas and matplotlib to refuse"""
import contextlib, io, pytest, shutil, sys, types, warnings
from collections import Counter
from helpers import *
from fastai_progresize import samples
from fastai_progresize.apps import book
from fastai_progresize.apps.book import run_experiment
from fastai_progresize.apps.folder import folder_learner
from test_bad_input import state

sys.path.insert(0, str(Path(__file__).parent.parent/'benchmarks'))
from elpv import elpv

nan,inf = float('nan'),float('inf')
values = [None, '', 'abc', '128', b'16', [], {}, [[16,24]], [None,None], ['16','24'], (16,24,32), [.5,1.5], [16], 0, -1,
          2, .5, True, nan, inf, -inf, 10**9, 2**70, range(16,33,8), slice(None), torch.tensor([16,24]), object(), int,
          lambda *args: 1, Path('nothing'), Path('file.txt'), Path('empty')]

def drawn(*args, **kwargs):
    "Make a plan, and show and plot it as far as it is known"
    plan = Plan(*args, **kwargs)
    plan._repr_html_(), repr(plan)
    if plan.stages: plan.plot()

plan = 'n_epoch sizes size bs lr_max fit freeze_epochs pct_start div div_final lr_mult aug'.split()
run = [*plan[:2], *plan[3:], 'get_dls', 'valid_size', 'fast']
tiny,two = dict(scale=.1, epochs=1, bs=8, subset=16, num_workers=0),dict(n_epoch=2, sizes=(16,24))

# Of each function: what finds it, arguments that are good, and those that are tried. Flags are not: all has a truth.
table = dict(
    Stage=(lambda g: Stage, dict(size=128, n_epoch=4), 'size n_epoch bs lr fit freeze_epochs n_acc aug'),
    default_sizes=(lambda g: default_sizes, dict(size=128), 'size n'),
    plan_of_total=(lambda g: drawn, dict(n_epoch=4, sizes=(16,24)), plan),
    plan_of_each=(lambda g: drawn, dict(n_epoch=(4,5), sizes=(128,224), fit='fine_tune'), plan),
    plan_of_size=(lambda g: drawn, dict(n_epoch=4, size=224), plan),
    plot=(lambda g: Plan((4,5), sizes=(128,224)).plot, {}, 'ax figsize'),
    stage_at=(lambda g: Plan(4, (128,224)).stage_at, {}, 'epoch'),
    phase_at=(lambda g: Plan(4, (128,224), fit='flat_cos').phase_at, {}, 'epoch'),
    at_size=(lambda g: g.dls.at_size, dict(size=16), 'size bs'),
    with_aug=(lambda g: g.dls.with_aug, {}, 'by'),
    fast=(lambda g: g.dls.fast, {}, 'cache decoded'),
    get_dls=(lambda g: partial(get_dls, path=g.path), dict(size=16, bs=4, num_workers=0),
             'size bs path num_workers seed stats presize cache decoded verify dblock min_scale'
             ' max_rotate min_zoom max_zoom'
             ' max_lighting max_warp p_affine p_lighting xtra_tfms mode pad_mode align_corners mult'),
    show_stages=(lambda g: partial(show_stages, g.dls), dict(sizes=(16,24)), 'sizes n ds_idx figsize'),
    show_function=(lambda g: partial(show_stages, sizes=(16,24)), {}, 'get_dls'),
    fit_progressive=(lambda g: g.learn.fit_progressive, two, [*run, 'cbs', 'checkpoint', 'wd', 'moms']),
    preflight=(lambda g: g.learn.preflight, dict(two, seconds=.01), [*run, 'minutes', 'seconds']),
    preflight_minutes=(lambda g: g.learn.preflight, dict(minutes=.01, sizes=[16], seconds=.01), 'n_epoch minutes sizes'),
    validate_sizes=(lambda g: g.learn.validate_sizes, dict(sizes=(16,24), show_plot=False),
                    'sizes bs get_dls fast n_batch'),
    clear_cache=(lambda g: clear_cache, dict(cache='empty'), 'cache dry'),
    plot_stages=(lambda g: g.learn.plot_stages, {}, 'metrics figsize'),
    compare_runs=(lambda g: partial(compare_runs, a=g.history), {}, 'b'),
    show_runs=(lambda g: show_runs, {}, 'df'),
    glyphs=(lambda g: samples.glyphs, dict(n_train=12, n_valid=10), 'n_train n_valid seed path scale'),
    elpv=(lambda g: elpv, {}, 'seed path'),
    small_resnet=(lambda g: samples.small_resnet, dict(n_out=3, widths=(4,4,4,4,4)), 'n_out widths'),
    run_experiment=(lambda g: partial(run_experiment, path=g.path), dict(tiny, e='ch14_resblock'),
                    'e path seeds scale epochs bs out subset num_workers'),
    book_table=(lambda g: book.book_table, {}, 'df'),
    plot_runs=(lambda g: book.plot_runs, {}, 'df'),
    plot_runs_in=(lambda g: partial(book.plot_runs, g.runs), {}, 'ax figsize'),
    folder_learner=(lambda g: partial(folder_learner, g.dls), dict(arch='xresnet18'), 'arch widen lr'),
)
def words(o): return o.split() if isinstance(o, str) else o
calls = [(name,arg,v) for name,(_,_,args) in table.items() for arg in words(args) for v in values]

tables = {'plot','show_stages','plot_stages','compare_runs','show_runs','book_table','plot_runs','plot_runs_in'}
def refusals(name): return (ValueError,TypeError) + ((KeyError,AttributeError) if name in tables else ())

def unchanged(learn): return {k: v for k,v in state(learn).items() if k not in ('python','numpy','torch','rngs')}

def outcome(g, name, arg, v):
    "'success' or the name of an error that refuses the argument; anything else is raised"
    f,good,_ = table[name]
    g.learn = small_learner(g.dls, lr=1e-3)
    g.learn.stage_rows = g.history.to_dict('records')
    with g.learn.no_bar(), g.learn.no_logging():
        own,w = unchanged(g.learn),weights(g.learn)
        try: f(g)(**{**good, arg:v})
        except (*refusals(name), *([RuntimeError] if isinstance(v, Tensor) else [])) as e:     # it has no truth
            assert str(e).strip() and 'Exception occured' not in str(e)
            assert unchanged(g.learn)==own and same_weights(w, weights(g.learn))
            return 'ValueError' if isinstance(e, ValueError) else type(e).__name__
    return 'success'

@pytest.fixture
def given(path, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    Path('empty').mkdir()
    Path('file.txt').write_text('a')
    runs = pd.DataFrame(dict(run='a', seed=0, epoch=[0,1], size=16, accuracy=.5, seconds=1., book=.5, book_seconds=''))
    history = pd.DataFrame({'epoch':[0,1], 'stage':0, 'size':16, 'bs':8, 'lr':1e-3, 'train_loss':2., 'valid_loss':2.,
                            'accuracy':.5, 'seconds':1., 'loading':.1, 'images/s':9.})
    return types.SimpleNamespace(path=path, dls=get_dls(24, 8, path, num_workers=0), runs=runs, history=history)

def tried(given, calls):
    "Outcomes of `calls`, counted; all that neither succeed nor are refused are told together"
    counts,raw = Counter(),[]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for name,arg,v in calls:
            try: counts[outcome(given, name, arg, v)] += 1
            except Exception as e: raw.append(f'{name}({arg}={v!r}): {type(e).__name__}: {e}')
            plt.close('all')
    assert not raw, '\n'.join(raw)
    return counts

def test_some(given):
    counts = tried(given, random.Random(0).sample(calls, 80))
    assert counts['ValueError']>40 and counts['success']>2

@pytest.mark.long
def test_all(given, count):
    assert len(calls)>300
    counts = tried(given, calls)
    print(f"{len(calls)} calls: {dict(counts)}")
    count('calls with bad arguments, that succeed or are refused', len(calls), counts.total())

# values that have to be refused

@pytest.mark.parametrize('bs', [-5, 0, 2.5, '8', True, nan, 10**9])
def test_bs_of_at_size(dls, bs):
    with pytest.raises(ValueError, match=re.escape(f'bs={bs!r}: pass an int of at ')): dls.at_size(24, bs)

@pytest.mark.parametrize('name,arg,v,says', [
    ('get_dls', 'bs', 0, 'bs=0: pass an int of at least 1'),
    ('get_dls', 'seed', None, 'seed=None: pass an int of at least 0'),
    ('get_dls', 'num_workers', -1, 'num_workers=-1: pass an int of at least 0'),
    ('get_dls', 'size', 10**9, 'size=1000000000: pass a size of at most 10000 px'),
    ('get_dls', 'stats', 'abc', "stats='abc': pass a mean and a standard deviation for each channel"),
    ('get_dls', 'path', '', "path='': pass the path of a folder"),
    ('get_dls', 'max_rotate', 'abc', "max_rotate='abc': pass values that `aug_transforms` takes"),
    ('get_dls', 'dblock', 3, 'dblock=3: pass a `DataBlock`'),
    ('plan_of_total', 'n_epoch', 10**9, 'n_epoch=1000000000: pass an int of at most 1000000'),
    ('plan_of_total', 'size', 'abc', "size='abc' is not an image size"),
    ('plan_of_size', 'n_epoch', ['16','24'], "n_epoch='16': pass an int"),
    ('plan_of_each', 'lr_max', slice(1e-3,None), 'lr=slice(0.001, None, None)'),
    ('show_stages', 'n', 1.5, 'n=1.5: pass an int of at least 1'),
    ('show_stages', 'ds_idx', 2, 'ds_idx=2: pass an int of at most 1'),
    ('preflight', 'seconds', 'abc', "seconds='abc': pass a positive, finite number"),
    ('glyphs', 'n_train', -1, 'n_train=-1'),
    ('glyphs', 'scale', (.9,1.), 'from .05 to .6'),
    ('small_resnet', 'widths', 3, 'widths=3: pass a list of at least two'),
    ('run_experiment', 'out', 'file.txt', "out='file.txt': pass the path of a folder"),
    ('fit_progressive', 'cbs', 3, 'cbs=3: pass `Callback`s or their classes'),
    ('plot_stages', 'metrics', [[16]], 'are not all in the history'),
    ('validate_sizes', 'n_batch', 0, 'n_batch=0: pass an int of at least 1'),
    ('folder_learner', 'lr', 0, 'lr=0: pass a positive, finite number'),
])
def test_says(given, name, arg, v, says):
    f,good,_ = table[name]
    given.learn = small_learner(given.dls)
    given.learn.stage_rows = given.history.to_dict('records')
    with pytest.raises(ValueError, match=re.escape(says)): f(given)(**{**good, arg:v})

@pytest.mark.parametrize('name,arg,v', [
    ('plot', 'figsize', 'abc'), ('plot', 'ax', 3), ('book_table', 'df', 3), ('plot_stages', 'figsize', 'abc'),
    ('compare_runs', 'b', 3), ('show_runs', 'df', 3)])
def test_refused_by_others(given, name, arg, v):
    "What pandas and matplotlib refuse themselves"
    assert outcome(given, name, arg, v) in ('ValueError','TypeError','AttributeError')

def test_plan_without_lr():
    for fit in (None,'fine_tune','fit_one_cycle'): Plan((4,5), sizes=(128,224), fit=fit).plot()

def test_no_runs():
    with pytest.raises(ValueError, match='There are no runs'): compare_runs()

def test_validate_rectangles(dls):
    df = small_learner(dls).validate_sizes([(16,24)], show_plot=False)
    assert list(df.index)==[(16,24)]

@pytest.mark.parametrize('change,says', [
    (lambda p: shutil.rmtree(p/'train/B'), 'There are images of B in .* to validate with, but none to train with'),
    (lambda p: [shutil.rmtree(o) for o in (p/'train').ls()], 'There are no images to train with'),
    (lambda p: [shutil.rmtree(o) for o in (p/'val').ls()], 'There are no images to validate with'),
    (lambda p: [o.rename(p/'train'/o.name) for o in get_image_files(p/'train')], 'There are no images to train with'),
])
def test_sides(path, tmp_path, change, says):
    folder = Path(shutil.copytree(path, tmp_path/'images'))
    change(folder)
    with pytest.raises(ValueError, match=says): get_dls(16, 4, folder, num_workers=0)
    with pytest.raises(ValueError, match=says): run_experiment('ch14_resblock', folder, out=tmp_path/'res', **tiny)
    assert not (tmp_path/'res').exists()

def test_class_only_in_training(path, tmp_path):
    folder = Path(shutil.copytree(path, tmp_path/'images'))
    shutil.rmtree(folder/'val/B')
    dls = get_dls(16, 4, folder, num_workers=0)
    assert 'B' in dls.vocab and len(dls.valid.one_batch())==2

# commands

strings = ['', 'abc', '0', '-1', '1.5', 'nan', 'inf', '1000000000', '1,2', '16x', ' ']
commands = {
    'progresize-fit': (['--sizes','16', '--epochs','1', '--arch','squeezenet1_1', '--bs','8', '--num-workers','0'],
                       'sizes epochs arch bs lr fit presize seed verify num-workers out'),
    'progresize-book': (['ch14_resblock', *(str(o) for k,v in tiny.items() for o in (f"--{k.replace('_','-')}",v))],
                        'seeds scale epochs bs subset num-workers out'),
    'progresize-demo': ([], 'sizes epochs')}

def check_command(given, capsys, name, arg, v):
    "Success, one line, or argparse's own error"
    good,_ = commands[name]
    images = dict([('progresize-fit',[given.path]), ('progresize-book',['--path',given.path])]).get(name, [])
    code,text = in_process(name, *images, *good, f'--{arg}={v}')
    err = capsys.readouterr().err+text
    assert code in (0,1,2) and 'Traceback' not in err, err
    if code:
        line, = [o for o in err.strip().splitlines() if o and not o.startswith('usage: ')]
        assert line.startswith(f'{name}: ') and len(line)>len(name)+10, line
    return code

def some_commands(only): return [(n,a,v) for n,(_,args) in commands.items() for a in args.split() for v in only]

@pytest.mark.parametrize('name,arg,v', [o for o in some_commands(['abc','-1']) if 'out' not in o])
def test_commands(given, capsys, name, arg, v): assert check_command(given, capsys, name, arg, v)!=0

@pytest.mark.long
def test_all_commands(given, capsys, count):
    codes = Counter(check_command(given, capsys, *o) for o in some_commands(strings))
    with capsys.disabled():
        print(f'{sum(codes.values())} commands: {codes[0]} succeed, {codes[1]+codes[2]} end in a line')
    count('commands with bad flags, that succeed or end in a line', codes.total(), codes.total())

@pytest.mark.parametrize('arch', ['mnasnet0_5','mobilenet_v2','vit_b_32','get_model','AlexNet','Path'])
def test_arch_without_a_body(dls, arch):
    says = f"arch='{arch}': `vision_learner` cannot cut a body from it .*: pass one such as xresnet18, xresnet50"
    with pytest.raises(ValueError, match=says) as e: folder_learner(dls, arch)
    assert 'StopIteration' not in str(e.value)
