"""What validation as the learner's own costs at the last size, over validation with `dls.fast()`: the same files, in turns

Photographs of 500x375 px. An epoch of validation is loaded alone, with the usual transforms of fastbook
(`Resize(460)`, then a batch at `size`) and with items resized to `size` only."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
from time import perf_counter
from fastai.vision.all import *
from fastai_progresize.all import *
from photos import photos

def loaders(path, size, item, batch_tfms, n_workers):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=GrandparentSplitter(valid_name='val'), item_tfms=item, batch_tfms=batch_tfms)
    return block.dataloaders(path, bs=64, num_workers=n_workers)

def seconds(dl):
    began = perf_counter()
    for _ in dl: pass
    return perf_counter()-began

def compare(path, size, pairs, n_workers):
    kinds = dict(book=(Resize(460), aug_transforms(size=size, min_scale=.75)), items=(Resize(size), None))
    for kind,(item,batch) in kinds.items():
        own = loaders(path, size, item, batch, n_workers)
        fast,n = own.fast(),len(own.valid_ds)
        def _pair(i):
            took = {id(o): seconds(o.valid) for o in ((own,fast) if i%2 else (fast,own))}
            return took[id(own)],took[id(fast)]
        rows = [_pair(i) for i in range(pairs)]
        ratio = np.median([a/b for a,b in rows])
        a,b = (n/np.median(o) for o in zip(*rows))
        print(f'{kind} at {size} px, {n_workers} workers: own {a:.0f} images per second, fast {b:.0f}; ratio {ratio:.2f}',
              flush=True)

@call_parse
def main(
    n:int=900, # Number of photographs
    pairs:int=5, # Pairs of measurements
):
    "Print images per second, and the ratio of the seconds"
    for size in (64,128,224): compare(photos(64, n), size, pairs, 2)
