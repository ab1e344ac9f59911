"A compiled model over a change of size: no more compilations than by hand, none at a size that is known"
import pytest
from helpers import *

class Counter:
    "A compiler that counts what it compiles, and runs it as it is"
    def __init__(self): self.n = 0
    def __call__(self, graph, inputs):
        self.n += 1
        return graph.forward

@pytest.fixture
def counter():
    torch._dynamo.reset()
    yield Counter()
    torch._dynamo.reset()

def compiled(path, counter, size):
    learn = small_learner(get_dls(size, 8, path, num_workers=0))
    learn.model = torch.compile(learn.model, backend=counter)
    return learn

def counts_by_hand(path, counter, sizes):
    "Compilations after each epoch of the loop written by hand"
    learn,res = compiled(path, counter, sizes[0]),[]
    with learn.no_bar(), learn.no_logging():
        for s in sizes:
            learn.dls = get_dls(s, 8, path, num_workers=0)
            learn.fit_one_cycle(1)
            res.append(counter.n)
    return res

class Counted(Callback):
    order = 90
    def __init__(self, counter): self.counter,self.counts = counter,[]
    def after_epoch(self): self.counts.append(self.counter.n)

@pytest.mark.parametrize('sizes', [(24,32,48), (24,48,24,48)])
def test_compilations(path, counter, sizes):
    own = Counter()
    want = counts_by_hand(path, own, sizes)
    assert want[0]>0 and want[-1]>want[0]       # it counts, and a new size is compiled
    torch._dynamo.reset()
    learn = compiled(path, counter, sizes[-1])
    seen = Counted(counter)
    with learn.no_bar(), learn.no_logging():
        learn.fit_progressive(Plan([Stage(s, 1, bs=8) for s in sizes], fit='fit_one_cycle'), cbs=seen)
    assert all(a<=b for a,b in zip(seen.counts, want)), (seen.counts, want)
    if sizes==(24,48,24,48): assert seen.counts[1]==seen.counts[3], seen.counts
