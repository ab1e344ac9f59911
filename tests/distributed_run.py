"Train in several processes, unstopped and stopped and resumed: `torchrun --nproc_per_node 2 distributed_run.py IMAGES FOLDER`"
import sys
from helpers import *
from fastai.distributed import *

images,folder = map(Path, sys.argv[1:])
folder.mkdir(exist_ok=True)
for frozen in (False,True):
    def trained(name, **kwargs):
        learn = new_learner(images, 2, [CSVLogger(), SaveModelCallback()], folder/f'{name}-{frozen}', frozen=frozen)
        with learn.distrib_ctx(sync_bn=False, cpu=True): run(learn, checkpoint='a', **kwargs)
        return learn
    whole = trained('whole')
    try: trained('part', cbs=StopAt(4 if frozen else 5))
    except KeyboardInterrupt: pass
    part = trained('part', resume=True)
    for name,learn in (('whole',whole),('part',part)):
        torch.save((weights(learn), learn.stage_history.drop(columns=['seconds','images/s']).to_dict('list'), type(learn.model).__name__), folder/f'{name}-{frozen}-{rank_distrib()}.pth')
    if not frozen:
        try: run(small_learner(get_dls(48, 8, images, num_workers=0)), bs=1000)
        except ValueError as e: (folder/f'error-{rank_distrib()}').write_text(str(e))
