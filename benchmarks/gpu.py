"""On a GPU, from scratch at 224 px: the default against one cycle, over paired seeds, on drawings and on photographs of
solar cells, in half precision. `--cores 2` is what a free notebook has. Without a GPU it runs as well, in float32.

Appends a row per run to `gpu.csv` as it ends; runs that are there already are not repeated."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # threads that wait leave the cores to the workers
from fastai.vision.all import *
from fastai.callback.channelslast import *
from fastai_progresize.all import *
from drawings import drawings
from elpv import elpv

csv,datasets = Path(__file__).parent/'gpu.csv',dict(drawings=(drawings, {}), elpv=(elpv, dict(flip_vert=True)))
loadings = dict(book=False, fast={}, copies=dict(cache=True), decoded=dict(cache=True, decoded=True))

def loaders(data, size, bs, num_workers, loading):
    "The book's from 460 px, or this package's"
    (make,tfms),is_book = datasets[data],loading=='book'
    batch_tfms = [*aug_transforms(size=size if is_book else None, **tfms), Normalize.from_stats(*imagenet_stats)]
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, batch_tfms=batch_tfms,
                      splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(460 if is_book else size))
    dls = block.dataloaders(make(), bs=bs, num_workers=num_workers)
    return dls if is_book else dls.fast(**loadings[loading])

def growing(plan, size, bs):
    "Batch sizes with as many pixels as `bs` images at `size`, in eights"
    return [max(8, round(bs*(size/s.size)**2/8)*8) for s in plan]

def model(arch, n_out):
    "One of fastai's xresnets, or a model of torchvision with fastai's head"
    make = globals()[arch]
    return make(n_out=n_out) if arch.startswith('x') else create_vision_model(make, n_out, pretrained=False)

def run(size, data, arch, way, loading, seed, epochs, bs, cores, channels_last):
    "One run as a row"
    key,on_gpu = {k: v for k,v in locals().items() if k!='size'},torch.cuda.is_available()
    os.sched_setaffinity(0, range(cores))
    set_seed(seed)
    get = partial(loaders, data, num_workers=cores, loading=loading)
    dls = get(size, bs)
    learn = Learner(dls, model(arch, dls.c), metrics=accuracy)
    if on_gpu: learn.to_fp16()
    if channels_last: learn.to_channelslast(use_amp=False)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if way=='one_cycle': learn.fit_one_cycle(epochs)
        else:
            more = dict(bs=growing(Plan(epochs, size=size), size, bs)) if way=='growing' else {}
            if loading=='book': more['get_dls'] = get
            learn.fit_progressive(epochs, fast=loadings[loading], **more)
    if on_gpu: torch.cuda.synchronize()
    seconds = time.perf_counter()-start
    with learn.no_bar(): loss,acc = learn.validate()
    device = torch.cuda.get_device_name() if on_gpu else 'CPU'
    return key | dict(size=size, seconds=round(seconds, 2), accuracy=round(acc, 5), valid_loss=round(loss, 5),
                      device=device, torch=torch.__version__)

def read(): return pd.read_csv(csv) if csv.exists() else None

@call_parse
def main(
    ways:str='default,one_cycle', # 'default', 'growing' (batches with as many pixels), 'one_cycle'
    data:str='drawings,elpv', # Names of datasets
    archs:str='xresnet50', # 'xresnet50', 'resnet50' or others of fastai and torchvision
    loading:str='fast', # 'book', 'fast', 'copies', 'decoded'
    seeds:str='1,2,3', # Seeds
    epochs:int=12, # Epochs of each run
    bs:int=64, # Batch size at the final size, images
    cores:int=2, # CPU cores, and worker processes
    size:int=224, # Final size, px
    channels_last:store_true=False, # Channels last in memory?
):
    "Run what is not there yet"
    lists = [o.split(',') for o in (seeds,data,archs,loading,ways)]
    for seed,d,arch,load,way in itertools.product(*lists):
        key = dict(data=d, arch=arch, way=way, loading=load, seed=int(seed), epochs=epochs, bs=bs, cores=cores,
                   channels_last=channels_last)
        df = read()
        if df is not None and (df[list(key)]==pd.Series(key)).all(axis=1).any(): continue
        row = pd.DataFrame([run(size, **key)])
        with open(csv, 'a') as f: f.write(row.to_csv(index=False, header=df is None))
        print(row.iloc[0].to_dict(), flush=True)
