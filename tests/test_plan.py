"Plans: for any number of epochs and sizes; and a plan trains what it shows"
import dataclasses
import pytest
from hypothesis import given, settings, strategies as st
from helpers import *
from fastai_progresize import schedule
from fastai_progresize.stage import default_shares, share_epochs
from test_bad_input import refused

side = st.integers(4, 1024)
a_size = st.one_of(side, st.tuples(side, side))
fits = [None,'fine_tune','fit_one_cycle','single_cycle','flat_cos']

@given(a_size, st.integers(1, 5))
def test_default_sizes(size, n):
    sizes = default_sizes(size, n)
    assert sizes[-1]==short_size(size) and 1<=len(sizes)<=min(n, 3)
    for a,b in zip(sizes, sizes[1:]): assert hw(a)!=hw(b) and all(x<=y for x,y in zip(hw(a), hw(b)))

@given(st.integers(1, 8), st.integers(0, 100))
def test_share_epochs(n, more):
    shares,n_epoch = default_shares(n),n+more
    res = share_epochs(n_epoch, shares)
    assert sum(res)==n_epoch and min(res)>=1
    exact = [s/sum(shares)*n_epoch for s in shares]
    if min(exact)>=1: assert all(abs(r-e)<1 for r,e in zip(res, exact))

@given(st.integers(1, 60), a_size, st.sampled_from(fits[1:]), st.integers(0, 4), st.booleans())
def test_int_is_all_epochs(n_epoch, size, fit, freeze_epochs, frozen):
    """An int is all the epochs of the run, but for those of a frozen body, which come before; its phases follow each
    other without a gap, and each has at least one epoch"""
    sizes = default_sizes(size, 1 if frozen else n_epoch)
    is_used = fit=='fine_tune' and (frozen or len(sizes)>1)
    freeze = dict(freeze_epochs=freeze_epochs) if is_used else {}
    plan = Plan(n_epoch, size=size, fit=fit, **freeze).filled(frozen=frozen, lr=1e-3)
    n_head = freeze_epochs if frozen and fit=='fine_tune' else 0
    assert plan.n_epoch==n_epoch+n_head
    assert [s.size for s in plan]==sizes
    n_epoch += n_head
    end = 0
    for p in plan.phases:
        assert p.start==end and p.n_epoch>=1
        end += p.n_epoch
    assert end==n_epoch
    at = [plan.stage_at(o) for o in range(n_epoch)]
    assert at==sorted(at) and set(at)==set(range_of(plan))
    for o in range(n_epoch):
        phase = plan.phase_at(o)
        assert phase.start<=o<phase.start+phase.n_epoch
    df = plan.to_df()
    assert df.epochs.sum()==n_epoch and df.share.sum()==pytest.approx(1)

@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans())
def test_one_for_each_size(n_epoch, frozen):
    "One number for each size is what its fit is given: the frozen epochs come on top"
    plan = Plan(n_epoch, sizes=[32,64,96][:len(n_epoch)], fit='fine_tune').filled(frozen=frozen, lr=1e-3)
    assert [s.n_epoch for s in plan]==n_epoch
    assert plan.n_epoch==sum(n_epoch) + len(n_epoch) - (not frozen)
    assert plan.n_epoch==sum(p.n_epoch for p in plan.phases)

def test_default_lr():
    for lr_max,lrs in ((None,[3e-3,1e-3,1e-3]), (5e-3,[5e-3]*3)):
        plan = Plan(10, (128,192,224), lr_max=lr_max)
        assert [s.lr for s in plan.filled(lr=3e-3, frozen=True)]==lrs
        assert plan.filled(lr=3e-3).lr==lrs[0] and plan.filled(lr=3e-3).fit=='flat_cos'
    single = Plan(10, size=224, fit='single_cycle').filled(lr=3e-3)
    assert single.lr==3e-3 and {s.lr for s in single}=={None} and list(single.to_df().lr)==[3e-3]*3
    several = Plan(10, size=224, fit='fit_one_cycle').filled(lr=slice(3e-4,3e-3))
    assert several[0].lr==slice(3e-4,3e-3)
    assert (several[1].lr.start,several[1].lr.stop)==pytest.approx((1e-4,1e-3))

def test_default_shares():
    assert [default_shares(n) for n in (1,2,3)]==[[1],[6,3],[10,6,8]]
    for n in range(2, 9):
        *before,last = default_shares(n)
        assert last/(sum(before)+last)==pytest.approx(1/3) and before==sorted(before, reverse=True)
    assert len(Plan(9, sizes=(32,64,96,128)))==4

def test_cost():
    "The caption's figures are those of the table"
    plan = Plan((4,5), sizes=(128,224), fit='fine_tune').filled()
    assert plan.rel_cost==pytest.approx((4*128**2+6*224**2)/(10*224**2))
    assert list(plan.to_df().pixels)==pytest.approx([(128/224)**2,1])
    assert f'{plan.rel_cost:.0%}' in plan._repr_html_() and f'{plan.rel_cost:.0%}' in repr(plan)

def test_frozen_stage():
    s = Stage((64,96), 2)
    assert s==Stage([64,96], 2) and hash(s) and s.size==(64,96) and Stage((64,64), 2).size==64
    with pytest.raises((dataclasses.FrozenInstanceError,AttributeError)): s.size = 32

# a plan is what it is made from

counts = st.one_of(st.integers(3, 9), st.lists(st.integers(1, 4), min_size=3, max_size=3).map(tuple))
plan_args = st.fixed_dictionaries(dict(n_epoch=counts), optional=dict(
    sizes=st.sampled_from([None,(16,24,32),(16,(16,24),32)]),
    fit=st.sampled_from(fits),
    lr_max=st.sampled_from([None,1e-3]),
    bs=st.sampled_from([None,4,'auto']),
    freeze_epochs=st.integers(0, 2),
    pct_start=st.sampled_from([None,.3]),
    div=st.sampled_from([None,10])))
left_to = dict(size=32, bs=8, lr=3e-3)

def has_sizes(args):
    if args.get('fit') in (None,'flat_cos') and args.get('div'): return False
    if args.get('fit')!='fine_tune' and 'freeze_epochs' in args: return False
    return isinstance(args['n_epoch'], int) or args.get('sizes')

@given(plan_args.filter(has_sizes), st.booleans())
def test_idempotent(args, frozen):
    "A plan of a plan is the plan, and what is filled in is filled in once"
    plan = Plan(**args)
    assert Plan(plan)==plan and plan==Plan(**args)
    full = plan.filled(**left_to, frozen=frozen)
    assert Plan(full)==full and full.filled(**left_to, frozen=frozen)==full
    assert full.filled(size=64, bs=2, lr=1., frozen=not frozen)==full
    assert plan==Plan(**args)            # it stays open
    assert not any(o is None for s in full for o in (s.size,s.bs))
    assert all(s.fit and s.lr for s in full) or (full.single and full.lr)

@given(plan_args.filter(has_sizes), st.booleans())
def test_same_in_parts(args, frozen):
    "Filled in bit by bit or at once: the same"
    at_once = Plan(**args).filled(**left_to, frozen=frozen)
    if args.get('sizes'):
        with pytest.raises(ValueError, match='size=32: the last of sizes=.* is the final one'): Plan(**{**args, 'size':32})
    else: assert Plan(**{**args, 'size':32}).filled(**left_to, frozen=frozen).phases==at_once.phases

def test_for_learner(dls):
    for frozen in (False,True):
        learn = small_learner(dls, 2, frozen, lr=2e-3)
        plan = Plan(6).for_learner(learn)
        assert plan.for_learner(learn)==plan and Plan(plan)==plan
        assert plan[-1].size==48 and {s.bs for s in plan}=={8}
        assert plan.fit==('fine_tune' if frozen else 'flat_cos')
        assert plan.lr_and_fit(plan[0])==(2e-3,plan.fit)

@pytest.mark.parametrize('args', [dict(sizes=(32,48)), dict(bs=4), dict(lr_max=1e-3), dict(fit='fit_one_cycle'),
                                  dict(freeze_epochs=2), dict(pct_start=.3), dict(div=3.), dict(lr_mult=5)], ids=str)
def test_plan_and_its_arguments(dls, args):
    "A plan has its own values: others beside it are refused"
    plan = Plan(4, (24,48))
    says = f'{first(args)}: a `Plan` has its own, pass other values to `Plan(...)`'
    with pytest.raises(ValueError, match=re.escape(says)): Plan(plan, **args)
    learn = small_learner(dls, 2)
    with refused(learn, says): learn.fit_progressive(plan, **args)
    with refused(learn, says): learn.preflight(plan, **args)

@pytest.mark.parametrize('args,says', [
    (dict(size=48), 'no argument `size`: pass `sizes`, smallest first, or `Plan(n_epoch, size=48)` for up to three'),
    (dict(lr=1e-3), 'no argument `lr`: pass `lr_max`'),
    (dict(epochs=3), 'no argument `epochs`: pass `n_epoch`'),
    (dict(start_epoch=1), 'no argument `start_epoch`: pass `checkpoint=` and `resume=True`'),
    (dict(accumulate=True), "no argument `accumulate`: bs='auto' keeps the effective batch size by itself"),
    (dict(preflight=True), 'no argument `preflight`: call `learn.preflight` with the same arguments'),
    (dict(freeze_epoch=2), 'no argument `freeze_epoch`: pass `freeze_epochs`'),
    (dict(valid_sizes='final'), 'no argument `valid_sizes`: pass `valid_size`'),
    (dict(xyz=2), 'no argument `xyz`: choose from n_epoch, sizes'),
], ids=str)
def test_wrong_names(dls, args, says):
    "A wrong argument is named, with the right one, and the learner is as it was"
    learn = small_learner(dls, 2)
    for f in (learn.fit_progressive, learn.preflight):
        with refused(learn, says, error=TypeError): f(4, (24,48), **args)

@pytest.mark.parametrize('sizes,says', [
    (1e-3, 'sizes=0.001 is not a size in px: did you mean lr_max=0.001?'),
    (slice(1e-5,1e-3), 'did you mean lr_max=slice(1e-05, 0.001, None)?'),
    ((1e-3,3e-4), 'did you mean lr_max=(0.001, 0.0003)?'),
    (128, 'sizes=128 is one size: pass sizes=[128] to train at it alone, or omit it for up to three sizes, ending at'),
], ids=str)
def test_second_argument(dls, sizes, says):
    "An lr, as `fit_one_cycle` takes it second, and one size, which may be the last or the only one"
    learn = small_learner(dls)
    for f in (learn.fit_progressive, learn.preflight):
        with refused(learn, says): f(4, sizes)

def test_one_size(dls):
    "In a list, or for one epoch, it is the only one; a plan shows what it does"
    learn = small_learner(dls)
    with learn.no_bar(), learn.no_logging():
        for n,sizes in ((2,[24]), (1,24), (Plan(2, 24),None)): learn.fit_progressive(n, sizes)
    assert list(learn.stage_history['size'])==[24,24]

def test_wrong_names_of_one(dls):
    "What only `fit_progressive` has, and what `dls.fast` has"
    learn = small_learner(dls, 2)
    with refused(learn, '`fit_progressive` has no argument `checkpont`: pass `checkpoint`', error=TypeError):
        learn.fit_progressive(4, checkpont='a')
    with refused(learn, '`preflight` has no argument `wd`: choose from n_epoch', error=TypeError):
        learn.preflight(4, wd=.1)
    with refused(learn, '`fast` has no argument `cach`: pass `cache`', error=TypeError):
        learn.fit_progressive(4, fast=dict(cach=True))
    with refused(learn, "fast=1: pass True, False, or a dict"): learn.fit_progressive(4, fast=1)

# a plan trains what it shows

class Sizes(Record):
    "At each batch: epoch, size of the images and their number, lr and momentum of each group, and what is frozen"
    def before_fit(self): self.seen = []
    def before_step(self):
        hypers = [(h['lr'],h['mom']) for h in self.opt.hypers]
        self.seen.append((self.epoch, self.x.shape[-1], len(self.x), hypers, self.opt.frozen_idx))

def expected(plan, learn, n_images):
    "What `Sizes` sees of `plan`, from its stages and phases alone"
    res,frozen_idx = [],learn.opt.frozen_idx
    for epoch in range(plan.n_epoch):
        s,phase = plan[plan.stage_at(epoch)],plan.phase_at(epoch)
        if phase.freeze is not None: frozen_idx = len(learn.opt.param_groups)-1 if phase.freeze else 0
        learn.opt.set_hyper('lr', learn.lr if phase.lr is None else phase.lr)
        scheds = phase.scheds(np.array([h['lr'] for h in learn.opt.hypers]), learn.moms)
        n = n_images//s.bs
        for i in range(n):
            pct = (epoch-phase.start + i/n)/phase.n_epoch
            mom = scheds['mom'](pct) if 'mom' in scheds else learn.opt.hypers[-1]['mom']
            res.append((epoch, s.size, s.bs, scheds['lr'](pct), mom, frozen_idx))
    return res

def trained(dls, frozen, args):
    set_seed(5)
    learn = small_learner(dls, 2, frozen, lr=2e-3, cbs=Sizes)
    start = weights(learn)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**args)
    assert not same_weights(weights(learn), start)
    return learn

def as_stages(fit):
    if fit and schedule.fits[fit].is_whole: return [Stage(24, 1), Stage(32, 2, bs=4)]
    freeze = dict(freeze_epochs=0) if fit=='fine_tune' else {}
    return [Stage(24, 1), Stage(32, 2, bs=4, **freeze), Stage(24, 1, fit=fit)]

def n_epoch_args(kind, fit):
    if kind=='stages': return dict(n_epoch=as_stages(fit))
    return dict(n_epoch=3 if kind=='int' else (1,2), sizes=(24,32))

own_values = dict(bs=4, lr_max=1e-3)

@pytest.mark.parametrize('values', ({}, own_values), ids=['learner','own'])
@pytest.mark.parametrize('frozen', (False,True))
@pytest.mark.parametrize('kind', ('int','tuple','stages'))
@pytest.mark.parametrize('fit', fits)
@pytest.mark.every(7)
def test_trains_what_it_shows(path, fit, kind, frozen, values):
    "Sizes, batches, lr and momentum of a run are those of its plan, and those of the same arguments without a plan"
    args = dict(n_epoch_args(kind, fit), fit=fit, **values)
    dls = get_dls(32, 8, path, num_workers=0)
    a = trained(dls, frozen, dict(n_epoch=Plan(**args)))
    other = small_learner(dls, 2, frozen, lr=2e-3)
    if not frozen: other.create_opt()           # `freeze` makes one
    plan = Plan(**args).for_learner(small_learner(dls, 2, frozen, lr=2e-3))
    want = expected(plan, other, 24)
    assert len(a.sizes.seen)==len(want)
    for (epoch,size,bs,hypers,idx),(*shown,lr,mom,shown_idx) in zip(a.sizes.seen, want):
        assert [epoch,size,bs,idx]==[*shown,shown_idx]
        assert np.allclose([o for o,_ in hypers], lr) and np.allclose([o for _,o in hypers], mom)
    assert list(a.stage_history.groupby('stage').epoch.count())==list(plan.to_df().epochs)
    b = trained(dls, frozen, args)
    assert a.sizes.seen==b.sizes.seen and same_weights(weights(a), weights(b))

def test_one_cycle_of_a_plan(path):
    "A plan keeps its `fit` when it is passed on: one cycle, whose lr rises once and falls once"
    plan = Plan(8, sizes=(40,64), fit='single_cycle')
    learn = trained(get_dls(64, 8, path, num_workers=0), False, dict(n_epoch=plan))
    lrs = [hypers[-1][0] for *_,hypers,_ in learn.sizes.seen]
    top = int(np.argmax(lrs))
    assert (np.diff(lrs[:top+1])>0).all() and (np.diff(lrs[top:])<0).all()
    assert lrs[0]==pytest.approx(2e-3/25) and max(lrs)==pytest.approx(2e-3, rel=.05)
    assert {idx for *_,idx in learn.sizes.seen}=={0}
    assert [size for _,size,*_ in learn.sizes.seen][::3]==[40]*5+[64]*3
