"Every cell of the matrix: it trains through its sizes and is used afterwards, or it is refused before training"
import gc
import pytest
from helpers import *
import matrix
from matrix import make_files, cells, factors

class Sees(Callback):
    "Sizes of the images that the model got, in training and in validation"
    order = 100
    def __init__(self): self.in_train,self.in_valid,self.n_losses = [],[],0
    def after_pred(self): (self.in_train if self.training else self.in_valid).append(tuple(self.xb[0].shape[-2:]))
    def after_loss(self): self.n_losses += 1

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_files(tmp_path_factory.mktemp('matrix'))

@pytest.fixture(scope='module', autouse=True)
def few_to_collect():
    "What is there before the first cell is not looked at again by the garbage collector"
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

@pytest.fixture(autouse=True)
def no_learners_left(few_to_collect):
    "Each is a cycle of references: of hundreds, memory would run out first"
    yield
    gc.collect()

class Trial:
    "A cell's learner, callbacks and arguments"
    def __init__(self, cell, d, path):
        set_seed(3)
        dls = matrix.datas[cell.data](d, cell.task)
        self.learn = matrix.learners[cell.learner](matrix.Ask(dls, cell.task))
        self.learn.path = path
        self.cbs,self.sees = matrix.callbacks[cell.callback](self.learn),Sees()
        self.option = matrix.options[cell.option]
        self.args = self.option(d)
        set_seed(5)

    def before(self):
        args = {**self.args, 'cbs':self.cbs} if self.option.before is matrix.before_preflight else self.args
        self.option.before(self.learn, args)

    def fit(self, *cbs, **kwargs):
        self.learn.fit_progressive(**{**self.args, **kwargs}, cbs=[*self.cbs, self.sees, *cbs])

def trainable(learn): return {k: p.detach().cpu().clone() for k,p in learn.model.named_parameters() if p.requires_grad}

def resumed(new, option):
    "A run that was stopped and resumed, which ends like an uninterrupted one"
    whole,stopped = new(),new()
    whole.fit(checkpoint=None, resume=False)
    set_seed(5)
    with pytest.raises(KeyboardInterrupt): stopped.fit(StopAt(option.stop_at), resume=False)
    res = new()
    res.fit()
    assert same_weights(weights(whole.learn), weights(res.learn))
    a,b = (o.learn.stage_history.drop(columns=['seconds','loading','images/s']) for o in (whole,res))
    pd.testing.assert_frame_equal(a, b)
    for a,b in zip(whole.cbs, res.cbs):
        if hasattr(type(a), 'state_dict'): assert a.state_dict()==b.state_dict()
    return res

def trained(new, option):
    t = new()
    before = trainable(t.learn)
    if option.before:
        t.before()
        if option.before in (matrix.before_preflight,matrix.before_lr_find,matrix.before_validate,matrix.before_stages):
            assert all(torch.equal(v, before[k]) for k,v in trainable(t.learn).items())
        before = trainable(t.learn)
    t.fit()
    after = weights(t.learn)
    assert any(not torch.equal(before[k], after[k]) for k in before)
    loss = t.learn.loss_func
    if hasattr(loss, 'calls') and not option.before: assert loss.calls==t.sees.n_losses
    return t

def fits(shape, size, cell): return shape==hw(size) or (cell.data=='RatioResize' and max(shape)==max(hw(size)))
def all_fit(shapes, sizes, cell): return len(shapes)==len(sizes) and all(fits(a, b, cell) for a,b in zip(shapes, sizes))

def check_sizes(t, cell):
    "The plan's sizes are in the history, and the model has seen them"
    option,sizes = t.option,t.option.sizes
    assert list(t.learn.stage_history['size'].drop_duplicates())==sizes
    seen,valid = (list(dict.fromkeys(o)) for o in (t.sees.in_train,t.sees.in_valid))
    assert seen and all_fit(seen, sizes[-len(seen):] if option.stop_at else sizes, cell)
    tracked = any(isinstance(o, TrackerCallback) for o in t.learn.cbs+t.cbs)
    valid_sizes = [option.valid or sizes[-1]] if option.valid or tracked else sizes[-len(seen):]
    assert all_fit(valid, valid_sizes, cell) or not len(t.learn.dls.valid.dataset)
    assert fits(hw(matrix.final_size(t.learn)), sizes[-1], cell)

def works(new, cell):
    option = matrix.options[cell.option]
    t = resumed(new, option) if option.stop_at else trained(new, option)
    check_sizes(t, cell)
    matrix.afters[cell.after](t.learn)

def refused(new, cell):
    t = new()
    if t.option.prepare: t.option.prepare(t.learn)
    w,dls,loss = weights(t.learn),t.learn.dls,t.learn.loss_func
    with pytest.raises(ValueError, match=re.escape(cell.says)):
        if t.option.before: t.before()
        t.fit()
    assert same_weights(w, weights(t.learn)) and t.learn.dls is dls and t.learn.loss_func is loss
    assert not t.sees.in_train and not t.sees.in_valid

@pytest.mark.parametrize('cell', [pytest.param(c, id=c.id, marks=() if c.always else pytest.mark.long) for c in cells])
@pytest.mark.filterwarnings('ignore')
def test_cell(folder, cell, tmp_path):
    for o in cell.packages: pytest.importorskip(o)
    (refused if cell.says else works)(partial(Trial, cell, folder, tmp_path), cell)

def test_table():
    "Many cells of different names, and every part in one that always runs"
    assert len(cells)>=350 and len({c.id for c in cells})==len(cells)
    for k,parts in factors.items():
        assert set(parts)-{c[k] for c in cells if c.always}==set()
        assert set(matrix.refused.get(k, {}))<=set(parts)

def test_markdown():
    text = matrix.as_markdown()
    for parts in factors.values():
        for o in parts: assert re.search(rf'[|;] {re.escape(o)}( \||;)', text), o
    says = [(k, matrix._says(k, o)) for k,parts in factors.items() for o in parts]
    assert text.count('| refused: "')==len({o for o in says if o[1]})
    assert sum(bool(o[1]) for o in says)==sum(len(o) for o in matrix.refused.values())
