"A frozen body: its head is trained first, as `fine_tune` does; what is asked for is what runs"
import itertools, pytest
from helpers import *
from fastai_progresize import preflight
from fastai_progresize.checks.trial import Timing
from fastai_progresize.apps.folder import fit_folder
from test_bad_input import refused

class Groups(Callback):
    "At each batch: epoch, size, and per parameter group lr, momentum and whether it has gradients"
    order,run_valid = 100,False
    def before_fit(self):
        if not hasattr(self, 'seen'): self.seen,self.n = [],-1
    def before_epoch(self): self.n += 1
    def before_step(self):
        grads = [any(p.grad is not None and p.requires_grad for p in g) for g in self.opt.param_lists]
        hypers = [(h['lr'],h['mom']) for h in self.opt.hypers]
        self.seen.append((self.n, self.x.shape[-1], hypers, grads))

def split_in(n):
    "A splitter of a body in `n-1` groups, and a head"
    def _split(m): return L(*chunked(list(m[0]), n_chunks=n-1), list(m[1])).map(lambda o: L(o).map(params).concat())
    return _split

def frozen_resnet(path, groups=3, **kwargs):
    set_seed(7)
    dls = {s: get_dls(s, 8, path, num_workers=0) for s in (24,32,48)}
    learn = vision_learner(dls[48], resnet18, pretrained=False, splitter=split_in(groups), cbs=Groups, **kwargs)
    learn.freeze()
    assert len(learn.opt.param_lists)==groups
    return learn,dls

def by_hand(learn, dls, sizes, counts, lrs, f):
    "`fine_tune` at the first size, then a cycle of its shape at each other, all in plain fastai"
    for i,(size,n,lr) in enumerate(zip(sizes, counts, lrs)):
        learn.dls = dls[size]
        if i==0: learn.fine_tune(n, lr, freeze_epochs=f)
        else:
            learn.unfreeze()
            learn.fit_one_cycle(n, slice(lr/2/100, lr/2), pct_start=.3, div=5)

some = [(0,3,2),(1,1,3),(2,3,4)]
all_of = itertools.product((0,1,2), (1,3), (2,3,4))
cases = [o if o in some else pytest.param(*o, marks=pytest.mark.long) for o in all_of]

@pytest.mark.parametrize('f,n_sizes,groups', cases)
def test_head_first(path, f, n_sizes, groups):
    "Epoch by epoch the same groups have gradients, at the same lr; the weights are those of the loop by hand"
    sizes,counts = ((48,),[4]) if n_sizes==1 else ((24,32,48),[2,1,1])
    lrs = [2e-3,2e-3/3,2e-3/3]
    a,dls = frozen_resnet(path, groups)
    by_hand(a, dls, sizes, counts, lrs, f)
    b,dls = frozen_resnet(path, groups)
    b.fit_progressive(4, sizes, freeze_epochs=f, get_dls=lambda size,bs: dls[size])
    assert a.groups.seen==b.groups.seen
    assert same_weights(weights(a), weights(b))
    seen = {(n,size,tuple(grads)) for n,size,_,grads in b.groups.seen}
    assert sorted(n for n,*_ in seen)==list(range(f+4))
    assert list(b.stage_history['size'])==[sizes[0]]*f + [s for s,n in zip(sizes, counts) for _ in range(n)]
    assert list(b.stage_history.epoch)==list(range(f+4))

@pytest.mark.parametrize('fit', (None,'fine_tune'))
@pytest.mark.every(2)
def test_default_of_freeze_epochs(path, fit):
    "One, with or without the `fit` being named: the body's weights stay as they are in it, and only in it"
    res = []
    class Body(Callback):
        def after_epoch(self): states.append((body.requires_grad, body.detach().clone()))
    for kw in ({}, dict(freeze_epochs=1)):
        learn,dls = frozen_resnet(path)
        body,states = learn.model[0][4][0].conv1.weight,[]
        learn.add_cb(Body())
        start = body.detach().clone()
        learn.fit_progressive(2, (24,48), fit=fit, get_dls=lambda size,bs: dls[size], **kw)
        assert [o for o,_ in states]==[False,True,True]
        assert torch.equal(states[0][1], start) and not torch.equal(states[1][1], start)
        res.append(weights(learn))
    assert same_weights(*res)

@pytest.mark.parametrize('n,sizes,counts', [(1,(224,),[1]), (2,(112,224),[1,1]), (3,(112,160,224),[1,1,1]),
                                            (5,(112,160,224),[2,1,2]), (10,(112,160,224),[4,3,3])])
@pytest.mark.parametrize('f', (None,0,1,2))
def test_phases(n, sizes, counts, f):
    "Shares follow from the int alone; then a cycle for each size, which is never frozen again"
    plan = Plan(n, sizes, freeze_epochs=f).filled(224, 64, 1e-3, frozen=True)
    f = ifnone(f, 1)
    assert [s.size for s in plan]==list(sizes)
    starts = [f+sum(counts[:i]) for i in range_of(counts)]
    head = [(0,f,True)] if f else []
    assert [(p.start,p.n_epoch,p.freeze) for p in plan.phases]==[*head, *((s,c,False) for s,c in zip(starts, counts))]
    assert plan.n_epoch==n+f and plan.starts==[0, *starts[1:]]
    assert [s.total for s in plan]==[counts[0]+f, *counts[1:]]
    assert plan.rel_cost==pytest.approx(sum(s.pixels*s.total for s in plan)/(224**2*(n+f)))
    assert f"{n+f} epochs" in repr(plan) and ('with a frozen body' in repr(plan))==(f>0)

@pytest.mark.parametrize('kw', ({}, dict(fit='fine_tune'), dict(fit='flat_cos'), dict(fit='fine_tune', freeze_epochs=0)))
def test_final_size_alone(kw):
    "Without `sizes` a frozen body, of which the plan may not know yet, trains at the final size, and the plan says why"
    for plan in (Plan(6, size=224, **kw), Plan(6, **kw)):
        assert [s.size for s in plan.filled(224, 64, 1e-3)]==[112,160,224]
        own = plan.filled(224, 64, 1e-3, frozen=True)
        assert [s.size for s in own]==[224] and own.rel_cost==1
        assert 'small images can hurt pretrained weights: to grow, pass `sizes`' in repr(own) and 'hurt' in own._repr_html_()
    for n,given in ((6, (112,224)), ((2,4), None), ((2,4), (112,224))):
        own = Plan(n, given, size=None if given else 224, **kw).filled(224, 64, 1e-3, frozen=True)
        assert [s.size for s in own]==[112,224] and 'hurt' not in repr(own)

def test_given_sizes():
    with pytest.raises(ValueError, match='n_epoch=1 is less than the 2 sizes'):
        Plan(1, (112,224)).filled(224, 64, 1e-3, frozen=True)
    plan = Plan(2, (112,224)).filled(224, 64, 1e-3, frozen=True)
    assert [(s.size,s.total) for s in plan]==[(112,2),(224,1)]

def test_numbers_per_size_are_the_books():
    "Frozen again at each size"
    plan = Plan((2,3), (112,224)).filled(224, 64, 1e-3, frozen=True)
    assert [(p.start,p.n_epoch,p.freeze) for p in plan.phases]==[(0,1,True),(1,2,False),(3,1,True),(4,3,False)]

@pytest.mark.parametrize('plan,says', [
    (Plan(5), '5 epochs, and 1 before them if the body is frozen (then all at the final size), through up to three sizes'),
    (Plan(5, size=96), '5 epochs, and 1 before them if the body is frozen (then all at the final size), with'),
    (Plan(5, (48,96)), '5 epochs, and 1 before them if the body is frozen, with'),
    (Plan(5, fit='fine_tune', freeze_epochs=2), '5 epochs, and 2 before them if the body is frozen (then all at the final size), through'),
    (Plan(5, freeze_epochs=0), '5 epochs through up to three sizes'),
    (Plan(5, size=96, fit='flat_cos'), '5 epochs with'),
    (Plan((2,3), (32,64)), '5 epochs, and 1 before each size if the body is frozen, with'),
    (Plan(5, 64).filled(64, 8, 1e-3, frozen=True), '6 epochs, 1 of them with a frozen body, at 64 px'),
], ids=str)
def test_says_so(plan, says): assert says in repr(plan) and says in plan._repr_html_()

def test_a_second_call_says_so(path):
    "The body is not frozen any more"
    learn,dls = frozen_resnet(path)
    assert "The body is frozen, so `fit` is 'fine_tune'" in repr(Plan(2, 48).for_learner(learn))
    learn.unfreeze()
    plan = Plan(2, 48).for_learner(learn)
    assert plan.fit=='flat_cos' and "The body is not frozen, so `fit` is 'flat_cos'" in repr(plan)

@pytest.mark.parametrize('kw,given,lrs', [
    ({}, {}, [2e-3,2e-3/3]),
    (dict(lr=1e-3), {}, [2e-3,2e-3/3]),          # cannot be told from the default
    (dict(lr=3e-3), {}, [3e-3,1e-3]),
    (dict(opt_func=partial(Adam, lr=1e-3)), {}, [1e-3,1e-3/3]),
    (dict(opt_func=partial(Adam, lr=5e-3)), {}, [5e-3,5e-3/3]),
    ({}, dict(lr_max=4e-3), [4e-3,4e-3]),
    ({}, dict(lr_max=(4e-3,2e-3), fit='fine_tune'), [4e-3,2e-3]),
])
@pytest.mark.every(2)
def test_base_lr(path, kw, given, lrs):
    "As the loop by hand with these lrs"
    def _learner():
        set_seed(7)
        dls = {s: get_dls(s, 8, path, num_workers=0) for s in (24,48)}
        return small_learner(dls[48], 2, frozen=True, cbs=Groups, **kw),dls
    a,dls = _learner()
    by_hand(a, dls, (24,48), (1,1), lrs, 1)
    b,dls = _learner()
    b.fit_progressive(2, (24,48), get_dls=lambda size,bs: dls[size], **given)
    assert a.groups.seen==b.groups.seen and same_weights(weights(a), weights(b))

def test_base_lr_of_the_book(path):
    "With a number per size too; not where a cycle or one schedule is asked for, nor from scratch"
    dls = get_dls(48, 8, path, num_workers=0)
    def _lrs(frozen=True, **kw):
        plan = Plan(**{'n_epoch':(1,1), 'sizes':(24,48), **kw}).for_learner(small_learner(dls, 2, frozen))
        return plan.lr if plan.single else [s.lr for s in plan]
    assert _lrs()==_lrs(fit='fine_tune')==[2e-3,2e-3/3]
    assert _lrs(fit='fit_one_cycle')==_lrs(False, fit='fine_tune')==[1e-3,1e-3/3]
    assert _lrs(fit='flat_cos')==_lrs(fit='single_cycle')==_lrs(False)==1e-3

# what is asked for is what runs

def test_one_cycle_of_a_frozen_body(path):
    "A cycle per size, and the body stays frozen, as by hand"
    def _learner():
        learn,dls = frozen_resnet(path)
        learn.recorder.train_metrics = False
        return learn,dls
    a,dls = _learner()
    for size,lr in ((32,1e-3),(48,1e-3/3)):
        a.dls = dls[size]
        a.fit_one_cycle(1, lr)
    b,dls = _learner()
    b.fit_progressive((1,1), sizes=(32,48), fit='fit_one_cycle', get_dls=lambda size,bs: dls[size])
    assert len(b.stage_history)==2
    assert a.groups.seen==b.groups.seen and same_weights(weights(a), weights(b))
    assert not b.model[0][4][0].conv1.weight.requires_grad

@pytest.mark.parametrize('kw,learner_kw', [
    (dict(lr_max=slice(1e-5,1e-3)), {}), (dict(lr_max=slice(1e-5,1e-3), fit='fine_tune'), {}),
    (dict(lr_max=(slice(1e-5,1e-3),1e-3), fit='fine_tune'), {}), ({}, dict(lr=slice(1e-5,1e-3)))], ids=str)
def test_no_slice_is_dropped(path, kw, learner_kw):
    "`fine_tune` takes one number: its first layers would train at another lr than the slice says"
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, **learner_kw)
    learn.opt = None
    for p in params(learn.model[0]): p.requires_grad_(False)
    with refused(learn, '`fine_tune` takes one number, its `base_lr`'): learn.fit_progressive(2, (24,48), **kw)

def test_a_slice_is_used(path):
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen=True, cbs=Groups)
    learn.fit_progressive(2, (24,48), lr_max=slice(1e-5,1e-3), fit='fit_one_cycle')
    assert all(hypers[0][0]==pytest.approx(hypers[1][0]/100) for _,_,hypers,_ in learn.groups.seen)

@pytest.mark.parametrize('kw,says', [
    (dict(freeze_epochs=2), "freeze_epochs=2 is for `fine_tune`, and this run trains with flat_cos"),
    (dict(lr_mult=10), "lr_mult=10 is for `fine_tune`, and this run trains with flat_cos"),
    (dict(lr_mult=10, fit='single_cycle'), "lr_mult=10 is for `fine_tune`, and this run trains with single_cycle"),
    (dict(freeze_epochs=1, fit='fit_one_cycle'), "freeze_epochs=1 is for `fine_tune`, and this run trains with"),
    (dict(freeze_epochs=2, fit='fine_tune', sizes=[48]), "omit it, or freeze the body first (`learn.freeze()`)"),
    (dict(n_epoch=[Stage(24, 1, freeze_epochs=2),Stage(48, 1)], sizes=None, fit='fit_one_cycle'), 'freeze_epochs=2'),
    (dict(n_epoch=[Stage(24, 1, freeze_epochs=2),Stage(48, 1)], sizes=None, fit='fine_tune'), 'freeze_epochs=2'),
    (dict(n_epoch=[Stage(24, 1, freeze_epochs=2),Stage(48, 1)], sizes=None), 'freeze_epochs'),
], ids=str)
def test_unused(dls, kw, says):
    "What nothing would use is an error, from `Plan` where its fit is known"
    learn = small_learner(dls, 2)
    args = {'n_epoch':2, 'sizes':(24,48), **kw}
    with refused(learn, says): learn.fit_progressive(**args)
    with refused(learn, says): learn.preflight(**args)
    if kw.get('fit') not in (None,'fine_tune'):
        with pytest.raises(ValueError, match=re.escape(says)): Plan(**args)

def test_unused_of_a_stage():
    with pytest.raises(ValueError, match="freeze_epochs=2: fit='fit_one_cycle' has no frozen epochs"):
        Stage(32, 1, fit='fit_one_cycle', freeze_epochs=2)

def test_unused_of_others(dls):
    "A size beside sizes, and how to load fast beside `get_dls`"
    with pytest.raises(ValueError, match=re.escape('size=96: the last of sizes=(32, 64) is the final one')):
        Plan(5, (32,64), size=96)
    learn = small_learner(dls)
    with refused(learn, "fast={'cache': True}: `get_dls` loads images in its own way"):
        learn.fit_progressive(2, (24,48), get_dls=lambda size,bs: dls, fast=dict(cache=True))

def test_freeze_epochs_of_stages():
    "The plan's, where a `Stage` has none of its own"
    plan = Plan([Stage(24, 1), Stage(32, 1, freeze_epochs=1), Stage(48, 1)], fit='fine_tune', freeze_epochs=3)
    assert [s.total for s in plan.filled(lr=1e-3, frozen=True)]==[4,2,4]
    assert [s.total for s in plan.filled(lr=1e-3)]==[1,2,4]

# frozen is what the parameters say

def head_first(learn): return Plan(2, 48).for_learner(learn).fit=='fine_tune'

def test_after_export(path, tmp_path):
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen=True)
    learn.export(tmp_path/'a.pkl')
    loaded = load_learner(tmp_path/'a.pkl')
    loaded.dls = learn.dls
    start = weights(loaded)
    loaded.fit_progressive(2, (24,48))
    assert list(loaded.stage_history['size'])==[24,24,48]
    assert not torch.equal(start['0.0.0.weight'], weights(loaded)['0.0.0.weight'])
    assert all(p.requires_grad for p in loaded.model.parameters())

def test_new_optimizer(path):
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen=True)
    learn.create_opt()
    assert head_first(learn)
    learn.opt = None
    assert head_first(learn)

def frozen_by_hand(learn):
    "All but the head's bias: not as `freeze` does"
    for p in list(learn.model.parameters())[:-1]: p.requires_grad_(False)
    learn.model[0][0][0].weight.requires_grad_(True)

def lora(learn):
    for p in learn.model.parameters(): p.requires_grad_(False)
    learn.model[0].add = nn.Linear(4, 4)        # in the first group, and trained

def whole(learn):
    for p in learn.model.parameters(): p.requires_grad_(False)

def head_only(learn): learn.model[1].requires_grad_(False)

@pytest.mark.parametrize('change', (frozen_by_hand,lora,whole,head_only))
def test_otherwise_frozen(dls, change):
    "It is left as the user set it"
    learn = small_learner(dls, 2)
    change(learn)
    assert not head_first(learn)

def test_one_group(dls):
    learn = small_learner(dls)
    learn.model[0].requires_grad_(False)
    assert not head_first(learn)

def test_norm_layers_and_several_groups(path):
    learn,_ = frozen_resnet(path, 4)
    assert learn.model[0][1].weight.requires_grad and head_first(learn)      # a norm layer, which fastai trains
    learn.freeze_to(2)
    assert head_first(learn)
    unet = unet_learner(learn.dls, resnet18, pretrained=False, n_out=2)
    assert not head_first(unet)
    unet.freeze()
    assert head_first(unet)

# what counts epochs

@pytest.mark.parametrize('frozen,sizes,of_3,cases,shortest', [
    (False, None, [1,1,1], ((100,[1]), (101,[1,1]), (111,[1,1,1]), (112,[2,1,1]), (211,[2,1,1]), (212,[2,1,2])), (99,1)),
    (True, (24,36,48), [2,1,1], ((112,[2,1,1]), (212,[3,1,1]), (213,[3,1,2])), (111,4)),
    (True, None, [4], ((200,[2]), (300,[3]), (399,[3])), (199,2))])
def test_preflight_counts(path, monkeypatch, frozen, sizes, of_3, cases, shortest):
    "Few epochs have fewer sizes; of a frozen body all are at the final size"
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen=frozen)
    seconds = {24:1., 36:10., 48:100.}
    def _try(trial, dls, **kwargs):
        sec = seconds[tfms_size(dls.train)[0]]
        return Timing(model=sec, loading=0., memory=1.)
    monkeypatch.setattr(preflight, 'try_stage', _try)
    res = learn.preflight(3, sizes, check=False)
    assert list(res.df.epochs)==of_3 and res.seconds==sum(seconds[o]*n for o,n in zip(res.df['size'], of_3))
    for most,epochs in cases:
        res = learn.preflight(sizes=sizes, minutes=most/60, check=False)
        assert list(res.df.epochs)==epochs and res.seconds<=most
    most,n = shortest
    with pytest.raises(ValueError, match=f'the shortest run, of {n} epochs, takes'):
        learn.preflight(sizes=sizes, minutes=most/60, check=False)

@pytest.mark.parametrize('plan', (Plan(2, (24,48), freeze_epochs=2), Plan((1,1), (24,48)), Plan(3, (24,48), fit='fine_tune'),
                                  Plan(4, (24,48), freeze_epochs=0), Plan(4, (24,48), fit='fit_one_cycle')), ids=repr)
@pytest.mark.every(2)
def test_compare(path, tmp_path, plan):
    "As many epochs at the final size, as many of them frozen"
    made = []
    def _frozen(dls):
        made.append(small_learner(dls, 2, frozen=True, cbs=Groups))
        return made[-1]
    fit_folder(path, tmp_path/'out', plan, compare=True, learner=_frozen, num_workers=0)
    a,b = [[{(n,grads[0]) for n,_,_,grads in o.groups.seen} for o in made]][0]
    n_frozen = lambda seen: sum(not is_trained for _,is_trained in seen)
    assert len(a)==len(b)==4 and n_frozen(a)==n_frozen(b)
    assert {size for _,size,*_ in made[1].groups.seen}=={48}

# stopped and resumed in the same notebook

@pytest.mark.parametrize('at', (1,5,8))
@pytest.mark.every(2)
def test_same_call_resumes(path, tmp_path, at):
    "In the frozen epoch, after the unfreezing, at the second size: the same plan, the same bits"
    def _learner():
        set_seed(3)
        learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen=True, cbs=Groups)
        learn.path = tmp_path
        return learn
    whole = _learner()
    whole.fit_progressive(2, (24,48))
    learn,kw = _learner(),dict(n_epoch=2, sizes=(24,48), checkpoint='a', resume=True)
    with pytest.raises(KeyboardInterrupt): learn.fit_progressive(**kw, cbs=StopAt(at))
    learn.fit_progressive(**kw)
    assert list(learn.stage_history['size'])==[24,24,48]
    assert same_weights(weights(learn), weights(whole))

@pytest.mark.parametrize('frozen', (True,False))
def test_same_call_after_the_end(path, tmp_path, capsys, frozen):
    "It says that the run has ended: a body that is frozen no more makes it another run"
    set_seed(3)
    learn = small_learner(get_dls(48, 8, path, num_workers=0), 2, frozen)
    learn.path = tmp_path
    kw = dict(n_epoch=2, sizes=(24,48), checkpoint='a', resume=True)
    learn.fit_progressive(**kw)
    after = weights(learn)
    if frozen:
        with refused(learn, f"The run in {tmp_path/'models'/'a.ckpt'} has ended"): learn.fit_progressive(**kw)
    else:
        learn.fit_progressive(**kw)
        assert f"The run in {tmp_path/'models'/'a.ckpt'} has ended" in capsys.readouterr().out
    assert same_weights(weights(learn), after)
