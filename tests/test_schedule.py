"Plans: for any number of epochs and sizes, not only those of the lessons"
import pytest
from hypothesis import given, settings, strategies as st
from helpers import *

side = st.integers(4, 1024)
a_size = st.one_of(side, st.tuples(side, side))

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

@given(st.integers(1, 60), a_size, st.sampled_from(['fine_tune','fit_one_cycle','single_cycle']), st.integers(0, 4), st.booleans())
def test_int_is_all_epochs(n_epoch, size, fit, freeze_epochs, frozen):
    "An int is all the epochs of the run; its phases follow each other without a gap, and each has at least one epoch"
    stages = make_stages(n_epoch, size=size, fit=fit, freeze_epochs=freeze_epochs, frozen=frozen, lr=1e-3)
    assert stages.n_epoch==n_epoch
    phases,end = stages.phases(),0
    for p in phases:
        assert p.start==end and p.n_epoch>=1
        end += p.n_epoch
    assert end==n_epoch
    at = [stages.index_at(o) for o in range(n_epoch)]
    assert at==sorted(at) and set(at)==set(range(len(stages)))
    df = stages.to_df()
    assert df.epochs.sum()==n_epoch and df.cost.sum()==pytest.approx(1)

@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans())
def test_one_for_each_size(n_epoch, frozen):
    "One number for each size is what its fit is given: the frozen epochs come on top"
    stages = make_stages(n_epoch, sizes=[32,64,96][:len(n_epoch)], frozen=frozen)
    assert [s.n_epoch for s in stages]==n_epoch
    assert stages.n_epoch==sum(n_epoch) + len(n_epoch) - (not frozen)

def test_default_lr():
    assert [s.lr for s in make_stages(10, size=224, lr=3e-3)]==[3e-3,1e-3,1e-3]
    assert [s.lr for s in make_stages(10, size=224, lr=3e-3, lr_max=5e-3)]==[5e-3]*3
    assert [s.lr for s in make_stages(10, size=224, lr=3e-3, fit='single_cycle')]==[3e-3]*3
    assert [s.lr for s in make_stages(10, size=224, lr=slice(3e-4,3e-3), fit='fit_one_cycle')][0]==slice(3e-4,3e-3)
    lr = make_stages(10, size=224, lr=slice(3e-4,3e-3), fit='fit_one_cycle')[1].lr
    assert (lr.start,lr.stop)==pytest.approx((1e-4,1e-3))

def test_default_shares():
    assert [default_shares(n) for n in (2,3)]==[[3,2],[50,30,20]]
    assert len(make_stages(9, sizes=(32,64,96,128)))==4

def test_cost():
    "The caption's figures are those of the table"
    stages = make_stages((4,5), sizes=(128,224))
    assert stages.rel_cost==pytest.approx((4*128**2+6*224**2)/(10*224**2))
    assert list(stages.to_df().pixels)==pytest.approx([(128/224)**2,1])
    assert f'{stages.rel_cost:.0%}' in stages._repr_html_() and f'{stages.rel_cost:.0%}' in repr(stages)

def test_frozen_stage():
    s = Stage((64,96), 2)
    assert s==Stage([64,96], 2) and hash(s) and s.size==(64,96) and Stage((64,64), 2).size==64
    with pytest.raises(Exception): s.size = 32
