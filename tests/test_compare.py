"Is it worth it? Pairs of runs, and what is said of them"
import pytest
from helpers import *
from fastai_progresize.report import compare
from fastai_progresize.report.compare import one_cycle_plan

def rows(diffs, metric='accuracy', n_valid=1000, saved=.3):
    "A pair of runs for each of `diffs`"
    return [dict(fit=f, seed=s, metric=metric, n_valid=n_valid, value=v, seconds=t) for s,d in enumerate(diffs)
            for f,v,t in (('progressive',.8+d,100*(1-saved)),('one cycle',.8,100.))]

def says(*args, **kwargs): return repr(FitComparison(pd.DataFrame(rows(*args, **kwargs))))

@pytest.mark.parametrize('diffs,metric,verdict', [
    ((.01,-.01,.02), 'accuracy', "The difference in accuracy is within chance, in 30% less time"),
    ((.03,.04,.05), 'accuracy', "Better by 0.040 ± 0.006 in accuracy, in 30% less time"),
    ((-.03,-.04,-.05), 'accuracy', "Worse by 0.040 ± 0.006 in accuracy, in 30% less time: keep `fit_one_cycle`"),
    ((-.03,-.04,-.05), 'error_rate', "Better by 0.040 ± 0.006 in error_rate"),
    ((.03,.04,.05), 'valid_loss', "Worse by 0.040 ± 0.006 in valid_loss"),
    ((0.,0.,0.), 'accuracy', "within chance"),
    ((.1,), 'accuracy', "One pair of runs proves little: pass more `seeds`"),
])
def test_verdict(diffs, metric, verdict): assert verdict in says(diffs, metric)

def test_table():
    "Means, and the mean of the differences with its standard error"
    lines = says((.01,.03), saved=-.1).splitlines()
    assert [o.split() for o in lines[1:4]]==[['progressive','0.820','110.0'], ['one','cycle','0.800','100.0'],
                                             ['difference','+0.020','±','0.010','+10.0','±','0.0']]
    assert 'in 10% more time' in says((.01,.03), saved=-.1)

def test_few_images():
    assert "There are 59 validation images: one of them is 0.017" in says((.1,.2), n_valid=59)
    assert 'validation images' not in says((.1,.2))

@pytest.mark.parametrize('plan,frozen,control', [
    (Plan(4, (24,48)), False, Plan(4, 48, fit='fit_one_cycle')),
    (Plan((2,2), (24,48), fit='fine_tune'), False, Plan(5, 48, fit='fit_one_cycle')),
    (Plan(4, (24,48)), True, Plan(4, 48, fit='fine_tune', freeze_epochs=1)),
    (Plan(4, (24,48), freeze_epochs=0), True, Plan(4, 48, fit='fine_tune', freeze_epochs=0)),
])
def test_control(path, plan, frozen, control):
    "As many epochs at the last size, as many of them frozen, with the learner's lr"
    learn = new_learner(path, 2, frozen=frozen)
    got = one_cycle_plan(plan.for_learner(learn))
    got = got.for_learner(learn)
    assert got==control.for_learner(learn) and got.n_epoch==plan.for_learner(learn).n_epoch

@pytest.fixture
def made(path):
    "A function that makes Learners, and a list of those that it has made"
    made = []
    def _make():
        made.append(small_learner(get_dls(48, 8, path, num_workers=0), lr=3e-3))
        return made[-1]
    return _make,made

def test_control_is_fit_one_cycle(path, made):
    "Bit-equal to a plain fit of the learner's own data with that seed"
    make,learners = made
    compare_fits(make, 2, sizes=(24,48), seeds=[5], fast=False)
    set_seed(5)
    own = make()
    with own.no_bar(), own.no_logging():
        own.dls = own.dls.at_size(48, 8)        # draws its order as a stage does
        own.fit_one_cycle(2)
    assert same_weights(weights(learners[-2]), weights(own))

def test_resumed(made, tmp_path, monkeypatch):
    "What was trained before the interrupt is not trained again, and another plan is not taken for it"
    make,learners = made
    args = dict(n_epoch=2, sizes=(24,48), seeds=2)
    whole = compare_fits(make, **args).df.drop(columns='seconds')
    n = len(learners)
    assert n==5
    own = compare.fit_run
    def _stop(*args, **kwargs):
        if len(learners)==n+4: raise KeyboardInterrupt
        return own(*args, **kwargs)
    with monkeypatch.context() as m:
        m.setattr(compare, 'fit_run', _stop)
        with pytest.raises(KeyboardInterrupt): compare_fits(make, **args, out=tmp_path)
    n = len(learners)
    again = compare_fits(make, **args, out=tmp_path)
    assert len(learners)==n+3       # one to look at, two that were left
    for k in ("fit","seed","value"): assert list(again.df[k])==list(whole[k])
    n = len(learners)
    compare_fits(make, **args, out=tmp_path)
    assert len(learners)==n+1
    compare_fits(make, **{**args, 'n_epoch':3}, out=tmp_path)
    assert len(learners)==n+2+4

@pytest.mark.parametrize('args,says', [
    (dict(seeds=0), 'seeds=0: pass an int of at least 1'),
    (dict(make_learner=3), 'make_learner=3: pass a function that returns a new `Learner`'),
    (dict(make_learner=dict), 'pass a function that returns a new `Learner`'),
    (dict(sizes=(48,24)), 'do not grow'),
    (dict(out=3), 'out=3: pass the path of a folder'),
])
def test_bad_input(made, args, says):
    with pytest.raises(ValueError, match=re.escape(says)): compare_fits(**{'make_learner':made[0], 'n_epoch':2, **args})

def test_misspelled(made):
    with pytest.raises(TypeError, match='pass `sizes`'): compare_fits(made[0], 2, size=24)

def test_plot(made):
    compared = compare_fits(made[0], 2, sizes=(24,48), seeds=2)
    ax = compared.plot()
    assert ax.get_xlabel()=='seconds' and ax.get_ylabel()=='accuracy' and len(ax.lines)==4
    assert compared.plot(ax) is ax and '<table' in compared._repr_html_()
    plt.close('all')

def test_command(path, tmp_path, capsys):
    "Two seeds, of which the first pair is the runs that were trained anyway"
    args = ['--sizes','24,32', '--epochs','2', '--arch','xresnet18', '--bs','8', '--num-workers',0, '--out','res']
    assert in_process('progresize-fit', path, *args, '--compare', '--seeds',2)==(0,'')
    out = capsys.readouterr().out
    assert 'At 32 px alone, in one cycle' in out and 'With 2 seeds:' in out and 'difference' in out
    df = pd.read_csv(tmp_path/'res/compare.csv')
    assert list(df.seed)==[42,42,43,43] and set(df.fit)=={'progressive','one cycle'} and (tmp_path/'res/compare.png').exists()
    history = pd.read_csv(tmp_path/'res/history.csv')
    assert df.seconds[0]==pytest.approx(history.seconds.sum()) and df.value[0]==history.accuracy.iloc[-1]
