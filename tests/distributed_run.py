"Train in two processes: `torchrun --nproc_per_node 2 distributed_run.py IMAGES FOLDER`"
import sys
from helpers import *
from fastai.distributed import *

images,folder = map(Path, sys.argv[1:])
folder.mkdir(exist_ok=True)

def _broadcast(self, t, rank):
    t = LongTensor(t).to(self.device)
    torch.distributed.broadcast(t, rank)
    return t.tolist()

@contextmanager
def on_cpu(learn):
    "`distrib_ctx` without GPUs, through which fastai's `DistributedDL` broadcasts the order of the items"
    with learn.distrib_ctx(sync_bn=False, cpu=True), replaced.object(DistributedDL, '_broadcast', _broadcast): yield

def trained(name, frozen, **kwargs):
    learn = new_learner(images, 2, [CSVLogger(), SaveModelCallback()], folder/f'{name}-{frozen}', frozen=frozen)
    with on_cpu(learn): run(learn, checkpoint='a', **kwargs)
    return learn

def save(learn, name, frozen):
    history = learn.stage_history.drop(columns=['seconds','loading','images/s']).to_dict('list')
    res = weights(learn),history,type(learn.model).__name__
    torch.save(res, folder/f'{name}-{frozen}-{rank_distrib()}.pth')

def stopped_and_not(frozen):
    "A run that is not stopped, and one that is, and is resumed"
    save(trained('whole', frozen), 'whole', frozen)
    try: trained('part', frozen, cbs=StopAt(4 if frozen else 5))
    except KeyboardInterrupt: pass
    save(trained('part', frozen, resume=True), 'part', frozen)

class Batches(Callback):
    "The training batches of each epoch as they come to the model"
    order,run_valid = 100,False
    def before_fit(self): self.epochs = []
    def before_train(self): self.epochs.append([])
    def before_step(self):
        x,y = (o.detach().as_subclass(Tensor).clone() for o in (self.x,self.y))
        self.epochs[-1].append((x,y))

def plain_run():
    "Of a model without BatchNorm, whose body is frozen at first: weights, and what it was trained on"
    learn = new_learner(images, 2, [Batches()], folder/'plain', model=plain_model, frozen=True, opt_func=SGD)
    start = weights(learn)
    with on_cpu(learn): run(learn, lr_max=.1, lr_mult=1)
    torch.save((start, weights(learn), learn.batches.epochs), folder/f'plain-{rank_distrib()}.pth')

def error_run():
    try: run(small_learner(get_dls(48, 8, images, num_workers=0)), bs=1000)
    except ValueError as e: (folder/f'error-{rank_distrib()}').write_text(str(e))

def on_two_disks(name, **kwargs):
    "Each process has a folder of its own"
    learn = new_learner(images, 2, [], folder/f'apart-{name}-{rank_distrib()}')
    with on_cpu(learn): run(learn, checkpoint='a', **kwargs)
    torch.save(weights(learn), folder/f'apart-{name}-{rank_distrib()}.pth')

def decoded():
    "Both processes fill and read the same pixels; then one of them finds all that it needs"
    for _ in range(2):
        learn = small_learner(get_dls(48, 8, images, num_workers=0, cache=folder/'copies', decoded=True))
        with on_cpu(learn): run(learn)
    torch.save(weights(learn), folder/f'decoded-{rank_distrib()}.pth')

def apart():
    on_two_disks('whole')
    try: on_two_disks('part', cbs=StopAt(4))
    except KeyboardInterrupt: pass
    on_two_disks('part', resume=True)

own = DistributedDL._broadcast
stopped_and_not(frozen=False)
error_run()
decoded()
apart()
stopped_and_not(frozen=True)
plain_run()
(folder/f'broadcast-{rank_distrib()}').write_text(str(DistributedDL._broadcast is own))
distrib_barrier()
torch.distributed.destroy_process_group()     # or the threads of one are cut off when the other ends
