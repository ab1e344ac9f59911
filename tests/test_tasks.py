"`fit_progressive(n)` with nothing else, on every kind of task and every way to resize: what the model sees"
import pytest
from helpers import *
from fastai_progresize.preflight import largest_bs
from fastai_progresize.load.augment import Presize

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Photographs of one size each way, with masks, and a table of labels"
    d = tmp_path_factory.mktemp('tasks')
    for i in range(12):
        a = np.random.RandomState(i).randint(0, 255, (80,100,3), dtype=np.uint8)
        Image.fromarray(a).save(d/f'{"ab"[i%2]}_{i}.jpg')
        Image.fromarray((a[...,0]>128).astype(np.uint8)).save(d/f'mask_{i}.png')
    return d

def files(d): return get_image_files(d).filter(lambda o: o.suffix=='.jpg').sorted()
def label(f): return f.name[0]
def mask(f):  return f.parent/f'mask_{f.stem[2:]}.png'
def point(f): return tensor([[30.,20.],[60.,50.]])
def boxes(f): return [[10,10,40,40],[50,20,90,70]]
def names(f): return ['x','y']
def angle(f): return float(f.stem[2:])/10
def labels(f): return [label(f), 'even' if int(f.stem[2:])%2==0 else 'odd']

def block(blocks, item=None, batch=None, n=None, **kwargs):
    def _dls(d):
        dblock = DataBlock(blocks, get_items=files, splitter=RandomSplitter(.34, seed=1), item_tfms=item,
                           batch_tfms=batch, n_inp=n, **kwargs)
        return dblock.dataloaders(d, path=d, bs=4, num_workers=0)
    return _dls

def from_folder(d):
    return ImageDataLoaders.from_folder(glyphs(24, 12, path=d.parent/'glyphs'), valid='val', item_tfms=Resize(64), bs=4,
                                        num_workers=0)

def df(d): return pd.DataFrame([(f.name, label(f)) for f in files(d)], columns=['name','label'])
factory = dict(valid_pct=.34, seed=1, bs=4, num_workers=0)
img_cat = (ImageBlock,CategoryBlock)
ways = dict(
    block       = block(img_cat, Resize(80), aug_transforms(size=64, min_scale=.75), get_y=label),
    aug_only    = block(img_cat, Resize(80), aug_transforms(size=64), get_y=label),
    from_folder = from_folder,
    from_name   = lambda d: ImageDataLoaders.from_name_func(d, files(d), lambda s: s[0], item_tfms=Resize(64),
                                                            **factory),
    from_df     = lambda d: ImageDataLoaders.from_df(df(d), d, item_tfms=Resize(64), **factory),
    squish      = block(img_cat, Resize(64, ResizeMethod.Squish), get_y=label),
    pad         = block(img_cat, Resize(64, ResizeMethod.Pad, pad_mode=PadMode.Zeros), get_y=label),
    rrc         = block(img_cat, RandomResizedCrop(64, min_scale=.5), get_y=label),
    batch_only  = block(img_cat, None, RandomResizedCropGPU(64), get_y=label),
    batch_flip  = block(img_cat, None, Flip(size=64), get_y=label),
    crop_pad    = block(img_cat, [Resize(80), CropPad(64, order=2)], get_y=label),
    random_crop = block(img_cat, [Resize(80), RandomCrop(64)], get_y=label),
    ratio       = block(img_cat, RatioResize(80), get_y=label),
    rectangle   = block(img_cat, Resize((60,80)), aug_transforms(size=(48,64)), get_y=label),
    black_white = block((ImageBlock(PILImageBW),CategoryBlock), Resize(64), get_y=label),
    multi       = block((ImageBlock,MultiCategoryBlock), Resize(64), get_y=labels),
    regression  = block((ImageBlock,RegressionBlock), Resize(64), get_y=angle),
    points      = block((ImageBlock,PointBlock), Resize(64), aug_transforms(), get_y=point),
    masks       = block((ImageBlock,MaskBlock(codes=['no','yes'])), Resize(80), aug_transforms(size=64), get_y=mask),
    bboxes      = block((ImageBlock,BBoxBlock,BBoxLblBlock), Resize(64), aug_transforms(), n=1, get_y=[boxes,names]),
)

first_of = {64: [32,48,64], (64,80): [(32,40),(48,60),(64,80)], (48,64): [(24,32),(36,48),(48,64)], 80: [40,60,80]}
sides = dict(ratio=80, rectangle=(48,64))

class BoxModel(nn.Module):
    "Two boxes and their classes for each image"
    def __init__(self):
        super().__init__()
        self.body,self.head = small_model(2*4),nn.Linear(1, 1)
    def forward(self, x): return self.body(x)

def box_loss(pred, boxes, labels): return F.mse_loss(pred.view(len(pred), -1, 4)[:,:boxes.shape[1]], TensorBase(boxes))

class Shapes(Callback):
    "Shapes of inputs and targets of each epoch, training first"
    def before_fit(self): self.seen = []
    def before_train(self): self.seen.append([None,None])
    def after_pred(self): self.seen[-1][0 if self.training else 1] = [tuple(o.shape) for o in (*self.xb,*self.yb)]

def task_learner(way, dls):
    if way=='masks':  return unet_learner(dls, resnet18, pretrained=False, cbs=Shapes)
    if way=='bboxes': return Learner(dls, BoxModel(), cbs=Shapes, loss_func=box_loss)
    n_in = 1 if way=='black_white' else 3
    y_range = (-1,1) if way in ('points','regression') else None
    return vision_learner(dls, resnet18, pretrained=False, cbs=Shapes, n_in=n_in, y_range=y_range)

@pytest.mark.parametrize('way', ways)
@pytest.mark.every(3)
def test_resizes(folder, way):
    dls = ways[way](folder)
    learn = task_learner(way, dls)
    own = tfms_size(dls.train)
    learn.fit_progressive(3)
    plan = first_of[sides.get(way, 64)]
    seen = list(learn.stage_history['size'])
    assert seen[-1]==short_size(own) if not isinstance(own, int) else seen[-1]==own
    assert sorted(set(seen), key=str)==sorted(plan, key=str)
    for size,both in zip(seen, learn.shapes.seen):
        for shapes in both:
            h,w = shapes[0][-2:]
            assert (h,w)==hw(size) or (way=='ratio' and max(h,w)==size and h==int(w*.8))
            if way=='masks': assert shapes[1][-2:]==(h,w)
            if way=='points': assert shapes[1][1:]==(2,2)
    assert tfms_size(dls.train)==own
    assert dls.vocab==learn.dls.vocab if hasattr(dls, 'vocab') else True

@pytest.mark.parametrize('make', [lambda dls: Learner(dls, xresnet18(n_out=dls.c)),
                                  lambda dls: vision_learner(dls, resnet18, pretrained=False)])
def test_classifiers(path, make):
    learn = make(get_dls(64, 8, path, num_workers=0))
    learn.add_cb(Shapes())
    learn.fit_progressive(2)
    assert [o[0][0] for o in learn.shapes.seen]==[(8,3,32,32),(8,3,64,64)]

def test_mask_values(folder):
    "Masks are resized by nearest neighbour: no new values, and where the image says"
    dls = ways['masks'](folder).at_size(32)
    x,y = dls.valid.one_batch()
    assert x.shape[-2:]==y.shape[-2:]==(32,32)
    assert set(y.unique().tolist())<={0,1}

@pytest.mark.parametrize('fast', (False,True))
def test_keeps_all(folder, fast):
    "What only the class of a loader knows is kept, and nothing of the original changes"
    d = DataBlock(img_cat, get_items=files, splitter=RandomSplitter(.34, seed=1), get_y=label, item_tfms=Resize(64),
                  batch_tfms=Normalize.from_stats(*imagenet_stats))
    wgts = np.arange(12)
    dls = d.weighted_dataloaders(folder, wgts, bs=4, num_workers=2, persistent_workers=True)
    dls.answer = 42
    before = repr(dls.train.after_item), dls.train.after_item.resize.size
    new = dls.at_size(32, bs=2)
    if fast: new = new.fast()
    assert (new.train.wgts==dls.train.wgts).all() and isinstance(new.train, WeightedDL)
    assert new.train.fake_l.persistent_workers and new.train.fake_l.num_workers==2
    assert (new.train.bs, new.valid.bs, dls.train.bs)==(2,2,4)
    assert new.answer==42 and new.train.items==dls.train.items
    assert new.train.dataset[0][1]==dls.train.dataset[0][1]
    assert new.train.shuffle and new.train.drop_last and not new.valid.shuffle
    assert before==(repr(dls.train.after_item), dls.train.after_item.resize.size)
    assert len(new.train)==4 and new.one_batch()[0].shape==(2,3,32,32)

def test_presize_follows():
    "What presizing and augmentation need is made for one interpolation, and never more than the original in proportion"
    def dls(*item, **kw):
        tfms = dict(after_item=list(item), after_batch=aug_transforms(size=224, **kw))
        res = DataLoaders(TfmdDL(list(range(4)), bs=2, num_workers=0, **tfms))
        res.train._n_inp,res.train._types = 1,None
        return res
    book = dls(Resize(460), min_scale=.75)
    assert book.at_size(128).fast().train.after_item.presize.train_size==(186,186)
    assert tfms_size(book.at_size((128,224)).fast().train)==(128,224)
    wide = dls(Resize(460)).at_size((128,224)).fast()
    assert wide.train.after_item.presize.train_size==(325,186)     # `Resize` has (width, height)
    assert dls(Resize(240)).at_size(224).fast().train.after_item.presize.train_size==(240,240)
    again = book.at_size(64).fast().at_size(224).fast().train
    assert tfms_size(again)==(224,224) and again.after_item.presize.train_size==(276,276)
    assert again.after_item.presize.keep==book.at_size(224).fast().train.after_item.presize.keep
    assert dls(Resize(460, ResizeMethod.Pad)).at_size(112).fast().train.after_item.resize.size==(230,230)
    assert book.train.after_item.resize.size==(460,460) and tfms_size(book.train)==(224,224)
    scaled = book.at_size(112).train                # without `fast` all is scaled alike
    assert scaled.after_item.resize.size==(230,230) and tfms_size(scaled)==(112,112)
    assert not any(isinstance(o, Presize) for o in scaled.after_item.fs)

def test_val_bs(folder):
    dblock = DataBlock(img_cat, get_items=files, splitter=RandomSplitter(.34, seed=1), get_y=label,
                       item_tfms=Resize(64))
    dls = dblock.dataloaders(folder, bs=2, val_bs=4, num_workers=0)
    assert dls.at_size(32, bs=4).valid.bs==8
    assert dls.at_size(32).valid.bs==4

def test_torch_loaders(path):
    "Loaders of torch work too, with a `get_dls`"
    from torchvision import transforms as T, datasets as D
    def torch_dls(size, bs):
        tfm = T.Compose([T.Resize((size,size)), T.ToTensor()])
        def _dl(part):
            ds = D.ImageFolder(path/part, tfm)
            return torch.utils.data.DataLoader(ds, batch_size=bs, shuffle=part=='train')
        return DataLoaders(_dl('train'), _dl('val'))
    learn = Learner(torch_dls(48, 8), small_model(), loss_func=nn.CrossEntropyLoss(), cbs=Shapes)
    with pytest.raises(ValueError, match='pass a function as `get_dls=`'):
        learn.fit_progressive(2, sizes=(32,48))
    learn.fit_progressive(2, sizes=(32,48), get_dls=torch_dls)
    assert [o[0][0] for o in learn.shapes.seen]==[(8,3,32,32),(8,3,48,48)]
    assert list(learn.stage_history.bs)==[8,8]
    run = Run(learn, 2, sizes=(32,48), get_dls=torch_dls)
    assert largest_bs(run, run.plan[1])==(run.plan[1],None,None)       # the step that a GPU takes before training

def test_get_dls_of_other_data(folder):
    "`dblock` keeps its blocks and is left as it was; a split that it does not have is drawn with the seed"
    d = DataBlock((ImageBlock,MaskBlock(codes=['no','yes'])), get_items=files, get_y=mask)
    before = repr((d.item_tfms, d.batch_tfms, d.splitter))
    a,b = (get_dls(s, 4, folder, dblock=d, num_workers=0) for s in (32,48))
    x,y = a.one_batch()
    assert x.shape==(4,3,32,32) and y.shape==(4,32,32) and a.valid.items==b.valid.items
    assert repr((d.item_tfms, d.batch_tfms, d.splitter))==before
    learn = unet_learner(b, resnet18, pretrained=False)
    learn.fit_progressive(2, sizes=(32,48), get_dls=partial(get_dls, path=folder, dblock=d, num_workers=0))
    assert len(learn.stage_history)==2

def test_get_dls_without_affine(path):
    "`aug_transforms` drops `size` when no affine transform is left"
    dls = get_dls(32, 8, path, num_workers=0, min_scale=1., do_flip=False, mult=0, max_zoom=1.)
    assert [o.one_batch()[0].shape[-2:] for o in dls]==[(32,32)]*2
