"An error names what fails: the metric, the loss, the model, a transform, or else the size"
import pytest
from helpers import *
from test_bad_input import refused, state

kw = dict(bs=8, num_workers=0)
two = dict(n_epoch=2, sizes=(32,48))

@pytest.fixture(scope='module')
def sorted_dls(tmp_path_factory):
    "12 images of each of three classes, which the validation set has in order"
    d = tmp_path_factory.mktemp('sorted')
    for i in range(36):
        a = np.random.RandomState(i).randint(0, 255, (56,56,3), dtype=np.uint8)
        (d/'abc'[i//12]).mkdir(exist_ok=True)
        Image.fromarray(a).save(d/'abc'[i//12]/f'{i}.png')
    files = get_image_files(d).sorted()
    splitter = FuncSplitter(lambda f: int(f.stem)%2==1)
    dblock = DataBlock((ImageBlock,CategoryBlock), get_items=lambda _: files, get_y=parent_label, splitter=splitter,
                       item_tfms=Resize(48))
    return dblock.dataloaders(d, path=d, **kw)

def learner(dls, n_out=3, **kwargs):
    set_seed(3)
    return small_learner(dls, model=partial(small_model, n_out), **kwargs)

def quiet_fit(learn, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**{**two, **kwargs})
    return learn.stage_history

# metrics

def all_classes(preds, targs):
    "As `roc_auc_score`: needs all three classes"
    if len(targs.unique())<3: raise ValueError('Number of classes in y_true not equal to the number of columns')
    return (preds.argmax(1)==targs).float().mean()

def auc(): return RocAuc()
def in_value(): return AccumMetric(all_classes, flatten=False)

@pytest.mark.parametrize('metric', [auc,in_value])
def test_metric_that_needs_all_classes(sorted_dls, metric):
    "A batch has one class, the validation set all three; the run is the one without the metric"
    learn = learner(sorted_dls, metrics=metric())
    before = state(learn)
    for check in (True,False): assert list(learn.preflight(**two, seconds=.02, check=check).df['size'])==[32,48]
    assert state(learn)==before
    history = quiet_fit(learn)
    assert 0<=history[learn.metrics[0].name].iloc[-1]<=1
    plain = learner(sorted_dls, metrics=[])
    assert history.valid_loss.tolist()==quiet_fit(plain).valid_loss.tolist()
    assert same_weights(weights(learn), weights(plain))

def wrong_shape(preds, targs): return (preds==targs).float().mean()
def wrong_type(preds, targs): return preds.argmax(1).numpy()&'a'

class Stateful(Metric):
    "Counts what it has seen; two images are too few"
    seen = 0
    def reset(self): pass
    def accumulate(self, learn): self.seen += len(learn.y)
    @property
    def value(self): return self.seen if self.seen>=18 else 1/0
    @property
    def name(self): return 'stateful'

@pytest.mark.parametrize('metric,says', [
    (wrong_shape, 'The metric wrong_shape fails{} (RuntimeError: '),
    (wrong_type, 'The metric wrong_type fails{} (TypeError: '),
    (AccumMetric(all_classes), 'The metric all_classes fails{} (AssertionError: '),
])
def test_metric_that_fails(sorted_dls, metric, says):
    "In `accumulate`, at any size: it is the metric"
    says = says.format(' on predictions of shape (8, 3) and targets of shape (8,)')
    learn = learner(sorted_dls, metrics=[accuracy,metric])
    with refused(learn, says, ': pass one that takes these, or omit it'): learn.fit_progressive(**two)
    with refused(learn, says): learn.preflight(**two, seconds=.02)

def test_metric_is_tried_on_a_copy(sorted_dls):
    metric = Stateful()
    learn = learner(sorted_dls, metrics=[metric])
    check_run(Run(learn, **two))
    assert metric.seen==0
    assert quiet_fit(learn).stateful.tolist()==[18,36]

def test_metric_with_the_callback_that_it_needs(sorted_dls):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_model(3)
        def forward(self, x): return self.body(x),x
    class First(Callback):
        def after_pred(self): self.learn.pred = self.pred[0]
    def loss(preds, targs): return F.cross_entropy(preds if isinstance(preds, Tensor) else preds[0], targs)
    learn = learner(sorted_dls, loss_func=loss, metrics=[accuracy,in_value()], cbs=First())
    learn.model = Two()
    assert quiet_fit(learn)['size'].tolist()==[32,48]
    learn.remove_cb(First)
    with refused(learn, 'The metric accuracy fails on predictions of type tuple'): learn.fit_progressive(**two)

def test_metrics_of_other_learners(sorted_dls):
    "Nothing is tried without a validation set, with `check=False`, and where nothing records metrics"
    learn = learner(sorted_dls, metrics=wrong_shape)
    assert list(learn.preflight(**two, seconds=.02, check=False).df['size'])==[32,48]
    learn.recorder.valid_metrics = False
    check_run(Run(learn, **two))
    learn.recorder.valid_metrics = True
    with pytest.raises(RuntimeError, match='The size of tensor a'): quiet_fit(learn, check=False)
    empty = DataLoaders(sorted_dls.train, sorted_dls.valid.new(sorted_dls.valid_ds.new_empty()))
    learn = learner(empty, metrics=wrong_shape)
    assert quiet_fit(learn)['size'].tolist()==[32,48]

class Forgets(Callback):
    "Has a state that no checkpoint keeps"
    def state_dict(self): return dict(seen=object())
    def load_state_dict(self, state): pass

def test_metric_does_not_hide_what_a_checkpoint_cannot_keep(sorted_dls):
    learn = learner(sorted_dls, metrics=auc(), cbs=Forgets())
    with refused(learn, 'A object cannot be kept in a checkpoint'):
        learn.fit_progressive(**two, checkpoint='saved')

# what fails at every size is not a matter of the size

def rows(n=12): return [np.random.RandomState(i).randint(0, 255, (56,56,3), dtype=np.uint8) for i in range(n)]

def pixel_model(n_out=2, n_in=3):
    return nn.Sequential(nn.Conv2d(n_in, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, n_out, 1))

def masks_learner(folder, mask, bs=4, **kwargs):
    "With the masks that `mask` makes of an image's pixels, as PNG files"
    for i,a in enumerate(rows()):
        Image.fromarray(a).save(folder/f'{i}.jpg')
        mask(a).save(folder/f'{i}.png')
    dblock = DataBlock((ImageBlock,MaskBlock(codes=['no','yes'])), get_items=partial(get_files, extensions='.jpg'),
                       get_y=lambda f: f.with_suffix('.png'), splitter=RandomSplitter(seed=1),
                       item_tfms=Resize(48, method='squish'))
    dls = dblock.dataloaders(folder, path=folder, bs=bs, num_workers=0)
    return Learner(dls, pixel_model(), loss_func=CrossEntropyLossFlat(axis=1), **kwargs)

def zero_255(a): return Image.fromarray(((a[...,0]>128)*255).astype(np.uint8))

def palette(a):
    im = Image.fromarray((a[...,0]>128).astype(np.uint8), mode='P')
    im.putpalette([0,0,0, 0,200,0])     # 117 in grey
    return im

whatever = 'fails at every size, that of `learn.dls` too'

@pytest.mark.parametrize('bs', [4,1])
@pytest.mark.parametrize('mask,most', [(zero_255,255),(palette,117)])
def test_masks_that_are_not_classes(tmp_path, mask, most, bs):
    learn,n = masks_learner(tmp_path, mask, bs),max(2, bs)      # not to blame a batch of one image
    says = [f'The loss {whatever} on predictions of shape ({n}, 2, 48, 48) and targets of shape ({n}, 48, 48) with'
            f' values from 0 to {most} (IndexError: Target {most} is out of bounds.): pass targets from 0 to 1, as the'
            ' model has 2 classes; for masks, let `get_y` return an array of class numbers']
    for sizes in ((32,48),[48],(24,32)):
        with refused(learn, *says): learn.fit_progressive(2, sizes=sizes)

def test_masks_as_the_error_says(tmp_path):
    for mask,by in ((zero_255,255),(palette,1)):
        learn = masks_learner(tmp_path, mask)
        dls = DataBlock((ImageBlock,MaskBlock(codes=['no','yes'])), get_items=partial(get_files, extensions='.jpg'),
                        get_y=lambda f: np.array(Image.open(f.with_suffix('.png')))//by, item_tfms=Resize(48),
                        splitter=RandomSplitter(seed=1)).dataloaders(tmp_path, path=tmp_path, bs=4, num_workers=0)
        with refused(learn, whatever): learn.fit_progressive(**two)
        learn.dls = dls
        assert quiet_fit(learn)['size'].tolist()==[32,48] and learn.dls.one_batch()[1].unique().tolist()==[0,1]

def test_too_few_outputs(sorted_dls):
    "In batches as large as those of the stage"
    dls = DataBlock((ImageBlock,CategoryBlock(vocab=['c','b','a'])), get_items=lambda _: sorted_dls.train.items,
                    get_y=parent_label, splitter=RandomSplitter(seed=1), item_tfms=Resize(48))
    learn = learner(dls.dataloaders(sorted_dls.path, **kw), n_out=2, metrics=[])
    says = f'The loss {whatever} on predictions of shape (15, 2) and targets of shape (15,) with values from '
    with refused(learn, says, ' is out of bounds.): pass targets from 0 to 1, as the model has 2 classes (check=False'):
        learn.fit_progressive(**two, bs=15)

def no_loss(preds, targs): raise KeyError('no loss')
def no_graph(preds, targs): return F.cross_entropy(preds.detach(), TensorBase(targs))

class Broken(Callback):
    def after_pred(self): raise RuntimeError('a broken callback')

def no_opt(params, lr): raise TypeError('no optimizer')

@pytest.mark.parametrize('changes,says', [
    (dict(model=partial(pixel_model, n_in=1)), f'The model {whatever} (RuntimeError: '),
    (dict(loss_func=no_loss), f'The loss {whatever} on predictions of shape (8, 3) and targets of shape (8,) (KeyErr'),
    (dict(loss_func=no_graph), f'The backward pass {whatever} (RuntimeError: '),
    (dict(opt_func=no_opt), f'The optimizer {whatever} (TypeError: no optimizer): pass another `opt_func`'),
])
def test_part_that_fails(sorted_dls, changes, says):
    learn = small_learner(sorted_dls, **{'model': partial(small_model, 3), **changes})
    for sizes in ((32,48),[48]):
        with refused(learn, says): learn.fit_progressive(2, sizes=sizes)

def test_fastais_callback_that_fails(sorted_dls):
    learn = learner(sorted_dls, cbs=GradientClip(max_norm='much'))
    with pytest.raises(ValueError, match=f'^A callback {whatever} .*`GradientClip`'): learn.fit_progressive(**two)

class Fails(Transform):
    "For images below a size, in training or validation"
    order = 50
    def __init__(self, below, split_idx=None): self.below,self.split_idx = below,split_idx
    def encodes(self, o:TensorImage): return o if o.shape[-1]>=self.below else o[9**9]

@pytest.mark.parametrize('kind', ['item_tfms','batch_tfms'])
@pytest.mark.parametrize('below,split_idx,says', [
    (99, 0, 'The transform Fails fails on the images of `learn.dls.train` (IndexError: '),
    (99, 1, 'The transform Fails fails on the images of valid at 32 px and on those of `learn.dls` (IndexError: '),
    (40, 0, 'The transform Fails fails on the images of train at 32 px (IndexError: '),
    (40, 1, 'The transform Fails fails on the images of valid at 32 px (IndexError: '),
])
def test_transform_that_fails(path, kind, below, split_idx, says):
    tfms = {'item_tfms': [Resize(48)], 'batch_tfms': []}
    tfms[kind].append(Fails(below, split_idx))
    dls = ImageDataLoaders.from_folder(path, valid='val', bs=8, num_workers=0, **tfms)
    way = 'not on those of `learn.dls`: pass `sizes` that it can take' if below==40 else 'fix or remove it'
    learn = small_learner(dls)
    with refused(learn, says, way): learn.fit_progressive(**two)

def test_train_only(sorted_dls):
    "fastai validates after each epoch, so one loader is too few; an empty one is enough"
    says = 'have no validation set, which fastai needs after each epoch: pass `DataLoaders(train, valid)`'
    learn = learner(DataLoaders(sorted_dls.train))
    with refused(learn, says): learn.fit_progressive(**two)
    empty = DataLoaders(sorted_dls.train, sorted_dls.valid.new(sorted_dls.valid_ds.new_empty()))
    assert quiet_fit(learner(empty))['size'].tolist()==[32,48]

# lazy layers

def lazy_model(pool=True, n_out=10):
    body = [nn.LazyConv2d(4, 3, 2), nn.LazyBatchNorm2d(), nn.ReLU()]
    return nn.Sequential(*body, *([nn.AdaptiveAvgPool2d(2)] if pool else []), nn.Flatten(), nn.LazyLinear(n_out))

def lazy_learner(path, pool=True):
    set_seed(1)
    return Learner(get_dls(48, 8, path, num_workers=0), lazy_model(pool), loss_func=CrossEntropyLossFlat(), lr=1e-3)

@pytest.mark.parametrize('preflight', [False,True])
def test_lazy_layers_that_take_the_first_size(path, preflight):
    "Refused before the first batch: the second size does not fit the weights that the first one makes"
    learn = lazy_learner(path, pool=False)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r'fails on images of 48x48 px .*and takes those of 32x32 px: pass `sizes`'):
        learn.preflight(**two) if preflight else learn.fit_progressive(**two)
    lazy = learn.model[0].weight,learn.model[1].running_mean,learn.model[4].weight
    assert all(map(torch.nn.parameter.is_lazy, lazy))
    assert torch.equal(before, torch.get_rng_state()) and learn.opt is None
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, sizes=[48])
    assert learn.model[4].in_features==4*23*23

def by_hand(learn, fit):
    "The book's loop"
    set_seed(5)
    with learn.no_bar(), learn.no_logging():
        for s in (32,48):
            learn.dls = get_dls(s, 8, learn.dls.path, num_workers=0)
            fit(learn)
    return weights(learn)

def test_lazy_layers_train_as_by_hand(path):
    "Checked or not: with the same random numbers for the weights. It warned that it could not check anything"
    import warnings
    res = []
    for preflight in (False,True):
        learn = lazy_learner(path)
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='.*cannot be copied')
            if preflight: learn.preflight((1,1), (32,48), fit='fit_one_cycle', seconds=.02)
            set_seed(5)
            quiet_fit(learn, n_epoch=(1,1), fit='fit_one_cycle', lr_max=(1e-3,1e-3),
                      get_dls=partial(get_dls, path=path, num_workers=0))
        res.append(weights(learn))
    hand = by_hand(lazy_learner(path), lambda learn: learn.fit_one_cycle(1, 1e-3))
    assert same_weights(res[0], hand) and same_weights(res[1], hand)

def test_lazy_layers_and_a_checkpoint(path):
    "Has nothing to save before the first batch; with weights it does"
    learn = lazy_learner(path)
    with pytest.raises(ValueError, match="checkpoint='saved': lazy layers, such as `nn.LazyLinear`, have no weights"):
        quiet_fit(learn, checkpoint='saved')
    assert torch.nn.parameter.is_lazy(learn.model[0].weight)
    learn.model(learn.dls.one_batch()[0].cpu())
    assert quiet_fit(learn, checkpoint='saved')['size'].tolist()==[32,48]

# a tuple of images as one input, as in fastai's tutorial on siamese networks

class ImageTuple(fastuple):
    @classmethod
    def create(cls, files): return cls(tuple(PILImage.create(f) for f in files))
    def show(self, ctx=None, **kwargs): return show_image(torch.cat(tuple(self), 2), ctx=ctx, **kwargs)

class PlainTuple(fastuple):
    "Does not show itself"
    @classmethod
    def create(cls, files): return cls(tuple(PILImage.create(f) for f in files))

class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body,self.head,self.shapes = small_model(4),nn.Linear(8, 2),[]
    def forward(self, x):
        assert len(x)==2
        if self.training: self.shapes.append([tuple(o.shape) for o in x])
        return self.head(torch.cat([self.body(o) for o in x], 1))

def siamese_dls(path, cls=ImageTuple, size=48, **kwargs):
    files = get_image_files(path/'train').sorted()
    def _pair(f): return [f, files[(files.index(f)*7+3)%len(files)]]
    def _same(f): return str(len({o.parent for o in _pair(f)})==1)
    tuples = TransformBlock(type_tfms=cls.create, batch_tfms=IntToFloatTensor)
    dblock = DataBlock((tuples,CategoryBlock), get_items=lambda _: files, get_x=_pair, get_y=_same,
                       splitter=RandomSplitter(seed=1), item_tfms=Resize(size),
                       batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
    return dblock.dataloaders(path, path=path, **kw)

@pytest.mark.parametrize('args', [dict(), dict(sizes=None), dict(n_epoch=(1,1), get_dls=True), dict(bs='auto')])
def test_tuple_of_images(path, args):
    learn = Learner(siamese_dls(path), Siamese(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    if 'get_dls' in args: args = dict(args, get_dls=lambda size, bs: siamese_dls(path, size=size))
    history = quiet_fit(learn, **args)
    sides = [32,48] if 'sizes' not in args else list(history['size'])
    assert list(history['size'])==sides and (history['images/s']>0).all()
    n = len(learn.model.shapes)//len(sides)
    assert learn.model.shapes==[[(8,3,s,s)]*2 for s in sides for _ in range(n)] and n==2

def test_tuple_of_images_preflight(path):
    learn = Learner(siamese_dls(path), Siamese(), loss_func=CrossEntropyLossFlat())
    assert list(learn.preflight(**two, seconds=.02).df['size'])==[32,48]
    assert Plan(2).for_learner(learn)[-1].size==48
    def sized(size, bs):
        "No transform says which size"
        dls = siamese_dls(path)
        for dl in dls.loaders: dl.after_item = Pipeline([Exactly(size),ToTensor()])
        return dls
    learn.dls = sized(48, 8)
    assert Plan(2).for_learner(learn)[-1].size==48
    says = 'The images at 32 px are 48x48 px: if you pass `get_dls`, let it use its `size`'
    with refused(learn, says): learn.fit_progressive(**two, get_dls=lambda size, bs: sized(48, bs))
    fixed = Learner(siamese_dls(path), nn.Sequential(First(), nn.Flatten(), nn.Linear(3*48*48, 2)),
                    loss_func=CrossEntropyLossFlat())
    with refused(fixed, 'fails on images of 32x32 px', 'and takes those of 48x48 px'): fixed.fit_progressive(**two)

class Exactly(Transform):
    "One's own way to resize"
    order = 1
    def __init__(self, size): self.size = size
    def encodes(self, o:PILImage): return o.resize((self.size,self.size))

class First(nn.Module):
    def forward(self, x): return x[0]

def test_tuple_of_images_shown(path):
    "As it shows itself, or its first image"
    for cls,width in ((ImageTuple,2),(PlainTuple,1)):
        axs = show_stages(siamese_dls(path, cls), (32,48), n=2, ds_idx=1)
        shapes = [[ax.images[0].get_array().shape for ax in row] for row in axs]
        assert shapes==[[(32,32*width,3),(48,48*width,3)]]*2

def test_pairs_that_share_an_image_do_not_leak(path):
    "A pair of a validation image and one of training is another item; the same pair is a leak"
    files = get_image_files(path/'train').sorted()
    def _pixels(f): return np.array(Image.open(f))
    def _learner(valid):
        pairs = list(zip(files, files[1:]))
        rows = [dict(a=_pixels(a), b=_pixels(b)) for a,b in pairs+valid]        # no names
        def _both(o): return ImageTuple((PILImage.create(o['a']),PILImage.create(o['b'])))
        ds = Datasets(rows, [[_both],[lambda o: int(o['a'].sum()%2),Categorize(vocab=[0,1])]],
                      splits=[range(len(pairs)),range(len(pairs), len(rows))])
        dls = ds.dataloaders(after_item=[Resize(48),ToTensor()], after_batch=IntToFloatTensor, **kw)
        return Learner(dls, Siamese(), loss_func=CrossEntropyLossFlat())
    assert quiet_fit(_learner([(files[i],files[i+3]) for i in range(8)]))['size'].tolist()==[32,48]
    with pytest.raises(ValueError, match='^Leak: '): quiet_fit(_learner([(files[i],files[i+1]) for i in range(8)]))

# other things that the user did not do

def test_learner_without_data(path, tmp_path):
    small_learner(get_dls(48, 8, path, num_workers=0)).export(tmp_path/'a.pkl')
    says = 'These `DataLoaders` have no images, as after `load_learner`: set `learn.dls = ...` first'
    mine = partial(get_dls, path=path, num_workers=0)
    for args in (two, dict(n_epoch=2), dict(two, check=False), dict(two, get_dls=mine)):
        learn = load_learner(tmp_path/'a.pkl')
        with refused(learn, says): learn.fit_progressive(**args)
    with refused(learn, says): learn.preflight(**two)
    with refused(learn, says): learn.validate_sizes((32,48))
    learn.dls = mine(48, 8)
    assert quiet_fit(learn)['size'].tolist()==[32,48]

def test_no_cpus(path, monkeypatch):
    "`defaults.cpus=0` turns fastai's workers off"
    monkeypatch.setattr(defaults, 'cpus', 0)
    assert quiet_fit(small_learner(get_dls(48, 8, path)))['size'].tolist()==[32,48]
    bad = path.parent/'bad.jpg'
    bad.write_bytes(b'none')
    assert list(find_faults([bad]))==[str(bad)]

@pytest.mark.parametrize('args', [dict(n_epoch=1, sizes=48), two])
def test_split_that_shares_files(path, args):
    "One's own split leaks: the error speaks of neither stages nor `get_dls`"
    files = get_image_files(path/'train').sorted()
    twice = files+files[:12]
    split = range(24),range(24, 36)
    dblock = DataBlock((ImageBlock,CategoryBlock), get_items=lambda _: twice, get_y=parent_label,
                       splitter=lambda _: split, item_tfms=Resize(48))
    learn = small_learner(dblock.dataloaders(path, path=path, **kw))
    size = first(L(args['sizes']))
    says = (f'Leak: 12 images are in both the training and the validation set at {size} px, 100% of all validation'
            ' images, such as train/A/00000.jpg. Fix the split: keep all items of one image, or of one group of images,'
            ' in one of the two sets')
    with refused(learn, says, 'FuncSplitter', 'ColSplitter'): learn.fit_progressive(**args)
    with pytest.raises(ValueError) as e: learn.fit_progressive(**args)
    assert 'get_dls' not in str(e.value) and 'stage' not in str(e.value)

def test_copies_of_files_in_one_split(path, tmp_path):
    for f in get_image_files(path/'train'):
        for to in (tmp_path/'train'/f.parent.name/f.name, tmp_path/'valid'/f.parent.name/f'copy_{f.name}'):
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(f.read_bytes())
    learn = small_learner(ImageDataLoaders.from_folder(tmp_path, item_tfms=Resize(48), **kw))
    with pytest.raises(ValueError, match='^Leak: 24 of 24 compared .*FuncSplitter') as e: learn.fit_progressive(1, 48)
    assert 'get_dls' not in str(e.value)

def test_command_says_what_to_do_with_a_folder(path, tmp_path):
    "Not how to write a splitter"
    import shutil
    shutil.copytree(path/'train', tmp_path/'data'/'train')
    for f in (path/'train').rglob('*.*'):
        to = tmp_path/'data'/'valid'/f.relative_to(path/'train')
        to.parent.mkdir(parents=True, exist_ok=True)
        to.symlink_to(tmp_path/'data'/'train'/f.relative_to(path/'train'))
    code,says = in_process('progresize-fit', tmp_path/'data', '--sizes', '48', '--epochs', '1', '--num-workers', '0')
    assert code==1 and says.endswith('Remove one of each pair, or put both in training or both in validation')
    assert 'images are in both the training and the validation set at 48 px' in says and 'stage' not in says

# datasets without a length

class Stream(torch.utils.data.IterableDataset):
    def __init__(self, size, n=16, bs=None): self.size,self.n,self.bs = size,n,bs
    def __iter__(self):
        items = [(torch.from_numpy(np.random.RandomState(i).rand(3, self.size, self.size)).float(),i%2)
                 for i in range(self.n)]
        return iter(items if self.bs is None else map(torch.utils.data.default_collate, chunked(items, self.bs)))

class Sized(torch.utils.data.DataLoader):
    "As WebDataset's loader: it knows how many batches there are, and its dataset knows nothing"
    def __len__(self): return 4

def stream_dls(size, bs, loader=Sized, batched=False):
    def _dl(n): return loader(Stream(size, n, bs if batched else None), batch_size=None if batched else bs)
    return DataLoaders(_dl(4*bs), _dl(4*bs))

def stream_learner(**kwargs):
    set_seed(3)
    return small_learner(stream_dls(48, 4, **kwargs), model=partial(small_model, 2))

@pytest.mark.parametrize('batched', [False,True])
def test_stream_with_a_length(batched):
    "Trains as by hand; a stream of batches has no batch size"
    make = partial(stream_dls, batched=batched) if not batched else lambda size, bs: stream_dls(size, 4, batched=True)
    hand = stream_learner()
    with hand.no_bar(), hand.no_logging():
        for s in (32,48):
            hand.dls = stream_dls(s, 4)
            hand.fit_one_cycle(1, 1e-3)
    for args in (dict(), dict(checkpoint='saved')):
        learn = stream_learner(batched=batched)
        history = quiet_fit(learn, n_epoch=(1,1), fit='fit_one_cycle', lr_max=(1e-3,1e-3), get_dls=make, **args)
        assert same_weights(weights(learn), weights(hand)) and list(history['size'])==[32,48]
    learn = stream_learner(batched=batched)
    assert list(learn.preflight(**two, get_dls=make, seconds=.02).df['size'])==[32,48]
    assert list(learn.validate_sizes((32,48), get_dls=make, show_plot=False).index)==[32,48]

def test_stream_without_a_length():
    "fastai cannot train with it"
    plain = torch.utils.data.DataLoader
    make,learn = partial(stream_dls, loader=plain),stream_learner(loader=plain)
    says = "at 32 px has no length (object of type 'Stream' has no len()), and fastai needs the number of batches: give"
    with refused(learn, f'The loader of train {says}'): learn.fit_progressive(**two, get_dls=make)
    with refused(learn, f'The loader of train {says}'): learn.preflight(**two, get_dls=make)
    def _valid(size, bs): return DataLoaders(stream_dls(size, bs).train, make(size, bs).valid)
    with refused(learn, f'The loader of valid {says}'): learn.fit_progressive(**two, get_dls=_valid)

# bars and warnings

@pytest.fixture
def long_checks(monkeypatch):
    "Ten seconds between any two looks at the clock"
    monkeypatch.setattr('fastai_progresize.utils.perf_counter', lambda t=itertools.count(0., 10.): next(t))

@pytest.mark.parametrize('fast', [True,'cache','decoded'])
@pytest.mark.every(2)
def test_no_bar(path, tmp_path, capsys, long_checks, fast):
    "Neither the checks nor the making of copies draw one"
    def _fast(o): return fast if fast is True else dict(cache=tmp_path/o, decoded=fast=='decoded')
    learn = small_learner(get_dls(48, 8, path, num_workers=0))
    with learn.no_logging(): check_run(Run(learn, 2, (32,48), fast=_fast('a')))
    assert '100.00%' in capsys.readouterr().out          # as wanted
    quiet_fit(learn, fast=_fast('b'))
    with learn.no_bar(): learn.preflight(**two, fast=_fast('b'), seconds=.02)
    assert '%' not in capsys.readouterr().out
    learn.remove_cb(ProgressCallback)
    check_run(Run(learn, 2, (32,48), fast=_fast('c')))
    assert '%' not in capsys.readouterr().out

class Locked(Callback):
    "Cannot be copied, and the model needs it"
    def __init__(self):
        import threading
        self.lock = threading.Lock()
    def after_pred(self): self.learn.pred = self.pred[0]

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_model()
    def forward(self, x): return self.body(x),x

def messages(f):
    "How often each warning of a run is shown, even if all are to be"
    import warnings
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        f()
    return Counter(str(o.message) for o in found)

def test_warned_once(path):
    learn = Learner(get_dls(48, 8, path, num_workers=0), Twice(), loss_func=CrossEntropyLossFlat(), cbs=Locked())
    with learn.no_bar(), learn.no_logging():
        for f in (partial(learn.fit_progressive, **two), partial(learn.preflight, **two, seconds=.02)):
            n = messages(f)
            assert [o for k,o in n.items() if k.startswith('`locked` is left out')]==[1]
            assert set(n.values())=={1}, n
    import warnings
    assert warnings.showwarning.__module__=='warnings'      # as it was

@pytest.mark.long
def test_command_warns_once(path, tmp_path):
    "Pillow warns of such palettes wherever one is read first after torch has changed the filters"
    for f in (path/'train').rglob('*.*'):
        to = (tmp_path/'data'/f.parent.name/f.name).with_suffix('.png')
        to.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(f) as im: im.quantize(16).save(to, transparency=bytes(16))
    args = 'data', '--sizes', '32,48', '--epochs', '2', '--num-workers', '0', '--arch', 'resnet18', '--bs', '8'
    res = in_shell('progresize-fit', *args, cwd=tmp_path, PYTHONWARNINGS='default')
    assert res.returncode==0 and res.stderr.count('Palette images with Transparency')==1, res.stderr
