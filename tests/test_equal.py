"`fit_progressive` gives the weights, lr and momentum of the hand-written loop in plain fastai, bit-identical"
import pytest
from helpers import *
from fastcore.test import equals

sizes = {2: (32,48), 3: (24,32,48)}

def make(path, n_workers, groups, frozen):
    "A learner and data at each size, the same at each call"
    set_seed(7)
    dls = {s: get_dls(s, 8, path, num_workers=n_workers) for s in sizes[3]}
    return small_learner(dls[48], groups, frozen, cbs=Record, lr=3e-3),dls

def swapping(dls, sizes, n_epoch):
    "A callback that swaps the data between epochs"
    starts = [sum(n_epoch[:i]) for i in range_of(n_epoch)]
    def swap(self):
        if self.epoch in starts: self.learn.dls = dls[sizes[starts.index(self.epoch)]]
    cb = Callback(before_epoch=swap)
    cb.order = -20
    return cb

def by_hand(learn, dls, sizes, fit, n_epoch, lrs, frozen):
    if fit=='single_cycle':
        return learn.fit_one_cycle(sum(n_epoch), lrs[0], cbs=swapping(dls, sizes, n_epoch))
    if fit=='flat_cos':
        grown = sum(n_epoch[:-1])/sum(n_epoch)
        return learn.fit_flat_cos(sum(n_epoch), lrs[0], pct_start=grown, cbs=swapping(dls, sizes, n_epoch))
    for i,(size,n,lr) in enumerate(zip(sizes, n_epoch, lrs)):
        learn.dls = dls[size]
        if fit=='fine_tune' and (i or frozen): learn.fine_tune(n, lr)
        else: learn.fit_one_cycle(n, lr)

fits = ['fine_tune','fit_one_cycle','single_cycle','flat_cos']
models = [(1,False),(2,False),(2,True)]
kinds = [(fit,n,*model) for fit in fits for n in (2,3) for model in models]
some = [('fine_tune',3,2,True), ('fit_one_cycle',2,2,False), ('single_cycle',3,1,False)]
cases = [(*o,0) for o in kinds] + [(*o,2) for o in some]
cases += [pytest.param(*o, 2, marks=pytest.mark.long) for o in kinds if o not in some]

@pytest.mark.parametrize('fit,n,groups,frozen,n_workers', cases)
def test_by_hand(path, fit, n, groups, frozen, n_workers):
    n_epoch = [2,1,2][:n]
    lrs = [3e-3,1e-3,5e-4][:n]
    a,dls = make(path, n_workers, groups, frozen)
    start = weights(a)
    by_hand(a, dls, sizes[n], fit, n_epoch, lrs, frozen)
    after = get_random_states()
    b,dls = make(path, n_workers, groups, frozen)
    assert same_weights(weights(b), start)
    lr_max = lrs[0] if fit in ('single_cycle','flat_cos') else lrs
    b.fit_progressive(n_epoch, sizes[n], lr_max=lr_max, fit=fit, get_dls=lambda size,bs: dls[size])
    assert a.record.hypers==b.record.hypers
    assert a.record.shapes==b.record.shapes
    assert same_weights(weights(a), weights(b))
    assert not same_weights(weights(a), start)
    assert b.dls is dls[sizes[n][-1]]
    for k,v in get_random_states().items(): assert equals(v, after[k]), k

def fastai_dls(path):
    "fastai's own transforms, presized and augmented"
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(96),
                      batch_tfms=[*aug_transforms(size=48, min_scale=.75), Normalize.from_stats(*imagenet_stats)])
    return block.dataloaders(path, bs=8, num_workers=0)

@pytest.mark.parametrize('fast', (True,False))
@pytest.mark.parametrize('make_dls', (fastai_dls, lambda path: get_dls(48, 8, path, num_workers=0)))
def test_at_size(path, make_dls, fast):
    "Also when both derive the data of each stage from the learner's own, fast or not"
    def learner():
        set_seed(7)
        return small_learner(make_dls(path), 2, cbs=Record, lr=3e-3)
    def at(own, size, bs):
        dls = own.at_size(size, bs)
        return dls.fast() if fast else dls
    a = learner()
    own = a.dls
    a.dls = at(own, 32, 16)
    a.fit_one_cycle(2, 3e-3)
    a.dls = at(own, 48, 8)
    a.fine_tune(2, 1e-3)
    b = learner()
    b.fit_progressive([Stage(32, 2, bs=16, lr=3e-3), Stage(48, 2, bs=8, lr=1e-3)], fit='fine_tune', fast=fast)
    assert a.record.hypers==b.record.hypers
    assert same_weights(weights(a), weights(b))

@pytest.mark.parametrize('args', [dict(pct_start=.4), dict(div=10.), dict(div_final=100.), dict(moms=(.9,.8,.9)),
                                  dict(wd=.1), dict(lr_mult=10)])
@pytest.mark.every(2)
def test_arguments(path, args):
    "Each argument goes where fastai's fits have it"
    one = {k:v for k,v in args.items() if k!='lr_mult'}
    a,dls = make(path, 0, 2, False)
    a.dls = dls[32]
    a.fit_one_cycle(2, 3e-3, **one)
    a.dls = dls[48]
    a.fine_tune(2, 1e-3, freeze_epochs=2, **args)
    b,dls = make(path, 0, 2, False)
    b.fit_progressive((2,2), (32,48), lr_max=(3e-3,1e-3), fit='fine_tune', freeze_epochs=2,
                      get_dls=lambda size,bs: dls[size], **args)
    assert a.record.hypers==b.record.hypers
    assert same_weights(weights(a), weights(b))

def test_reset_opt(path):
    a,dls = make(path, 0, 2, False)
    a.fit(1, 1e-3)
    a.dls = dls[32]
    a.fit_one_cycle(1, 3e-3, reset_opt=True)
    b,dls = make(path, 0, 2, False)
    b.fit(1, 1e-3)
    b.fit_progressive(1, 32, lr_max=3e-3, fit='fit_one_cycle', reset_opt=True, get_dls=lambda size,bs: dls[size])
    assert same_weights(weights(a), weights(b))

def test_slice_and_defaults(path):
    "A slice of lr, and the default lr: the learner's, then a third of it"
    a,dls = make(path, 0, 2, False)
    a.dls = dls[32]
    a.fit_one_cycle(2)
    a.dls = dls[48]
    a.fine_tune(2, 1e-3)
    b,dls = make(path, 0, 2, False)
    b.fit_progressive((2,2), (32,48), fit='fine_tune', get_dls=lambda size,bs: dls[size])
    assert a.record.hypers==b.record.hypers
    a,dls = make(path, 0, 2, False)
    for s in (32,48):
        a.dls = dls[s]
        a.fit_one_cycle(1, slice(1e-4,1e-3))
    b,dls = make(path, 0, 2, False)
    b.fit_progressive((1,1), (32,48), lr_max=slice(1e-4,1e-3), fit='fit_one_cycle', get_dls=lambda size,bs: dls[size])
    assert a.record.hypers==b.record.hypers
    assert same_weights(weights(a), weights(b))

@pytest.mark.parametrize('args', [dict(pct_start=.4), dict(div_final=100.), dict(wd=.1)], ids=str)
def test_arguments_flat(path, args):
    "Those of `fit_flat_cos`, and what is recorded; the defaults of one size are fastai's"
    for given in ({}, args):
        a,_ = make(path, 0, 2, False)
        a.fit_flat_cos(2, 3e-3, **given)
        b,_ = make(path, 0, 2, False)
        b.fit_progressive(2, [48], lr_max=3e-3, fit='flat_cos', get_dls=lambda size,bs: b.dls, **given)
        assert a.record.hypers==b.record.hypers
        assert a.recorder.hps==b.recorder.hps and list(b.recorder.hps)==['lr']
        assert same_weights(weights(a), weights(b))

@pytest.mark.parametrize('frozen', (False,True))
def test_default(path, frozen):
    "Without a `fit`: flat lr, then annealed, from scratch; the book's fine_tune where the body is frozen"
    def _run(**kwargs):
        learn,dls = make(path, 0, 2, frozen)
        learn.fit_progressive(5, (32,48), get_dls=lambda size,bs: dls[size], **kwargs)
        return learn
    a,b = _run(),_run(fit='fine_tune' if frozen else 'flat_cos')
    assert a.record.hypers==b.record.hypers and same_weights(weights(a), weights(b))

def test_valid_size_does_not_matter(path):
    "Training is the same whatever it is validated on"
    res = []
    for v in ('stage','final',64):
        learn,_ = make(path, 0, 1, False)
        learn.fit_progressive((2,2), (32,48), valid_size=v)
        res.append((weights(learn), learn.stage_history.valid_loss))
    for i in (1,2):
        assert same_weights(res[0][0], res[i][0])
        assert not (res[0][1][:2]==res[i][1][:2]).any()
    assert not (res[0][1]==res[2][1]).any()

def test_resumed(path, tmp_path):
    "Stopped after any epoch and resumed, each later epoch has the lr, shapes and history that it would have had"
    whole,dls = make(path, 0, 2, False)
    kw = dict(n_epoch=(2,2), sizes=(32,48), fit='fine_tune', get_dls=lambda size,bs: dls[size])
    whole.fit_progressive(**kw)
    n = len(whole.record.hypers)//5
    for k in range(1, 5):
        part,dls = make(path, 0, 2, False)
        part.path = tmp_path
        with pytest.raises(KeyboardInterrupt): part.fit_progressive(**kw, checkpoint=f'a{k}', cbs=StopAt(k*n+1))
        part,dls = make(path, 0, 2, False)
        part.path = tmp_path
        part.fit_progressive(**kw, checkpoint=f'a{k}', resume=True)
        assert part.record.hypers==whole.record.hypers         # what came before the stop is kept
        assert part.record.shapes==whole.record.shapes
        assert list(part.stage_history.epoch)==list(range(5))
        for o in ('size','lr','train_loss','valid_loss'): assert part.stage_history[o].equals(whole.stage_history[o])
        assert part.opt.frozen_idx==0
        assert '_do_fit' not in part.__dict__
        assert same_weights(weights(part), weights(whole))
