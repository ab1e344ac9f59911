"`at_size` only scales: at its own size nothing changes, and a trained learner has nothing of this package in it"
import subprocess, sys
import pytest
from helpers import *

def splitter(items): return [i for i,o in enumerate(items) if o.parent.parent.name=='train'],[0,11,30]

def block(item=None, batch=None):
    def make(path):
        d = DataBlock((ImageBlock,CategoryBlock), get_items=files, get_y=parent_label, splitter=splitter,
                      item_tfms=item, batch_tfms=batch)
        return d.dataloaders(path, bs=5, num_workers=0)
    return make

def files(path): return get_image_files(path).sorted()

norm = Normalize.from_stats(*imagenet_stats)
kinds = dict(
    presized        = block(Resize(115), [*aug_transforms(size=56, min_scale=.75), norm]),
    affine          = block(Resize(80), aug_transforms(size=48)),
    rectangle       = block(Resize((60,90)), aug_transforms(size=(40,60), min_scale=.6)),
    item_only       = block(Resize(48)),
    squish          = block(Resize(48, ResizeMethod.Squish)),
    pad             = block(Resize(48, ResizeMethod.Pad, pad_mode=PadMode.Zeros)),
    crop_pad        = block([Resize(80),CropPad(48, order=2)]),
    random_crop     = block([Resize(80),RandomCrop(48)]),
    ratio           = block([Resize(96),RatioResize(48)]),
    resized_crop    = block(RandomResizedCrop(48, min_scale=.4), aug_transforms()),
    batch_only      = block(Resize(64), RandomResizedCropGPU(48)),
    flip_only       = block(Resize(64), Flip(size=48)),
    get_dls         = lambda path: get_dls(48, 5, path, num_workers=0),
    presized_get_dls = lambda path: get_dls(48, 5, path, num_workers=0, presize=70, min_scale=.5),
)

def tfms(dl): return [t for p in (dl.after_item,dl.after_batch) for t in p.fs]

def batches(dls):
    "All batches of an epoch, training and validation, for the same random numbers"
    set_seed(3)
    for i,dl in enumerate(dls.loaders): dl.rng = random.Random(i)
    return [[to_detach(o) for o in b] for dl in dls.loaders for b in dl]

@pytest.mark.parametrize('bs', (None,5))
@pytest.mark.parametrize('kind', kinds)
def test_own_size(path, kind, bs):
    "The same transforms, and bit-identical batches"
    own = kinds[kind](path)
    size = tfms_size(own.train)
    new = own.at_size(size, bs)
    for a,b in zip(own.loaders, new.loaders):
        assert all(x is y for x,y in zip(tfms(a), tfms(b), strict=True))
        assert a.dataset is b.dataset and a.bs==b.bs
    first,again,at = batches(own),batches(own),batches(new)
    assert len(first)==len(at)>=5
    for x,y,z in zip(first, again, at):
        for a,b,c in zip(x, y, z): assert torch.equal(a, b) and torch.equal(a, c)

def described(t):
    "All of `t` but its size, and what it has drawn"
    drawn = ('tl','cp_size','pcts','size','train_size','max_sz','mat','do','orig_sz','aff_fs','coord_fs','lighting')
    return {k: str(v) for k,v in t.__dict__.items() if k not in drawn and not k.startswith('_')}

def size_of(t): return getattr(t, 'max_sz', getattr(t, 'size', None))

@pytest.mark.parametrize('kind', kinds)
def test_other_size(path, kind):
    "Kind, order, method and interpolation stay; only sizes differ, and only those of copies"
    own = kinds[kind](path)
    before = [(t, described(t), size_of(t)) for dl in own.loaders for t in tfms(dl)]
    size = tfms_size(own.train)
    half = tuple(o//2 for o in size)
    new = own.at_size(half)
    for (a,text,old),b in zip(before, [t for dl in new.loaders for t in tfms(dl)], strict=True):
        assert type(a) is type(b) and described(b)==text and a.order==b.order and a.split_idx==b.split_idx
        assert size_of(a)==old
        if old is None: assert a is b
        else: assert a is not b and size_of(b)!=old
    assert tfms_size(new.train)==half and new.train.one_batch()[0].shape[-2:]==half

@pytest.mark.parametrize('kind', ('presized','rectangle','get_dls'))
def test_there_and_back(path, kind):
    "Sizes come back, unless one was rounded on the way"
    own = kinds[kind](path)
    size = tfms_size(own.train)
    back = own.at_size(tuple(2*o for o in size)).at_size(size)
    for a,b in zip(tfms(own.train), tfms(back.train)): assert getattr(a, 'size', None)==getattr(b, 'size', None)

predict = '''
import sys
class Blocked:
    def find_spec(self, name, *args):
        if name.split('.')[0]=='fastai_progresize': raise ImportError(f'{name} must not be needed')
sys.meta_path.insert(0, Blocked())
import warnings
warnings.simplefilter('ignore')
from fastai.vision.all import *
images,learners = (o.split(',') for o in sys.argv[1:])
for o in learners:
    learn = load_learner(o)
    with learn.no_bar(): torch.save(torch.stack([learn.predict(f)[2] for f in images]), o+'.pth')
assert not [o for o in sys.modules if o.startswith('fastai_progresize')]
'''

def torch_model():
    "Of torch's layers only: the other models of these tests are in a module that imports the package"
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 10))

def test_export(path, tmp_path):
    "A learner of fastai's own `DataLoaders`, at its own size or another: its export needs nothing of this package"
    images,exported = get_image_files(path).sorted()[:3],{}
    for sizes,fast in (((24,48),True), ((24,32),True), ((24,32),False)):
        dls = ImageDataLoaders.from_folder(path, valid='val', item_tfms=Resize(96), bs=8, num_workers=0,
                                           batch_tfms=[*aug_transforms(size=48, min_scale=.75), norm])
        learn = Learner(dls, torch_model(), metrics=accuracy, path=tmp_path)
        with learn.no_bar():
            learn.fit_progressive(2, sizes=sizes, fast=fast)
            assert (learn.dls is dls)==(sizes[-1]==48) and tfms_size(learn.dls.train)==hw(sizes[-1])
            file = tmp_path/f'{sizes[-1]}-{fast}.pkl'
            learn.export(file)
            exported[file] = torch.stack([learn.predict(f)[2] for f in images])
    args = [','.join(map(str, o)) for o in (images,exported)]
    r = subprocess.run([sys.executable, '-c', predict, *args], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    atol = 1e-4 if torch.cuda.is_available() else 0      # exports are loaded on the CPU
    for file,probs in exported.items():
        torch.testing.assert_close(torch.load(f'{file}.pth', 'cpu'), probs.cpu(), atol=atol, rtol=0)
