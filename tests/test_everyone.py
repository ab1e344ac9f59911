"What people have: any Learner, any data, any callback. Each case was refused wrongly, wrong in silence, or a traceback"
import pytest
from operator import itemgetter
from PIL import ImageOps
from helpers import *
from fastai_progresize.checks.split import item_keys
from fastai_progresize.load.files import image_files
from fastai_progresize.checks.trial import Trial

kw = dict(bs=4, num_workers=0)
seed = RandomSplitter(.34, seed=1)
two = dict(n_epoch=2, sizes=(32,48))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('everyone')
    for i in range(12):
        a = np.random.RandomState(i).randint(0, 255, (60,80,3), dtype=np.uint8)
        (d/'ab'[i%2]).mkdir(exist_ok=True)
        Image.fromarray(a).save(d/'ab'[i%2]/f'{i}.jpg')
        np.save(d/'ab'[i%2]/f'{i}.npy', a)
    return d

def files(d, suffix='.jpg'): return get_files(d, extensions=suffix).sorted()
def block(*blocks, get_items=files, get_y=parent_label, item=Resize(48), **kwargs):
    return DataBlock(blocks or (ImageBlock,CategoryBlock), get_items=get_items, get_y=get_y, splitter=seed,
                     item_tfms=item, **kwargs)
def arrays(n=12): return [np.random.RandomState(i).randint(0, 255, (60,80,3), dtype=np.uint8) for i in range(n)]

def trains(learn, **kwargs):
    "It trains through both sizes, tried before or not"
    before = weights(learn)
    with learn.no_bar(), learn.no_logging():
        res = learn.preflight(**two, seconds=.02, **kwargs)
        assert same_weights(before, weights(learn))
        learn.fit_progressive(**two, **kwargs)
    assert list(learn.stage_history['size'])==[32,48] and list(res.df['size'])==[32,48]
    assert (res.df.epoch>0).all()
    return learn

def cnn_of(dls): return small_learner(dls, model=partial(small_model, 2))

# 1. the export is fastai's

def segment(d):
    def _mask(f): return (np.array(Image.open(f))[...,0]>128).astype(np.uint8)
    dblock = block(ImageBlock, MaskBlock(codes=['no','yes']), get_y=_mask)
    return unet_learner(dblock.dataloaders(d, path=d, **kw), resnet18, pretrained=False)

exports = dict(
    from_folder = lambda d: cnn_of(ImageDataLoaders.from_path_func(d, files(d), parent_label, valid_pct=.34,
                                                                          seed=1, item_tfms=Resize(48), **kw)),
    book        = lambda d: cnn_of(block(batch_tfms=aug_transforms(size=48, min_scale=.75),
                                                item=Resize(60)).dataloaders(d, path=d, **kw)),
    ours        = lambda d: cnn_of(get_dls(48, path=d, dblock=block(), **kw)),
    made_fast   = lambda d: cnn_of(block().dataloaders(d, path=d, **kw).fast()),
    vision      = lambda d: vision_learner(block().dataloaders(d, path=d, **kw), resnet18, pretrained=False),
    segment     = segment,
)

@pytest.mark.parametrize('name', exports)
@pytest.mark.every(3)
def test_export_without_us(folder, tmp_path, name):
    "It loads and predicts the same where this package is not there; nothing in it is of ours or of pandas"
    learn = exports[name](folder)
    ours = partial(get_dls, path=folder, dblock=block(), **kw) if name=='ours' else None
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**two, get_dls=ours)
    learn.path = tmp_path
    learn.export('x.pkl')
    assert b'fastai_progresize' not in (tmp_path/'x.pkl').read_bytes()
    f = files(folder)[0]
    code = f"""import sys
sys.modules['fastai_progresize'] = None
from fastai.vision.all import *
learn = load_learner('x.pkl')
assert learn.stage_rows[-1]['size']==48
with learn.no_bar(): p = learn.predict({str(f)!r})[2]
print(p.flatten().tolist()[:20])"""
    if name=='segment': return in_python(code.replace('parent_label', 'x'), tmp_path)
    with learn.no_bar(): own = learn.predict(f)[2]
    assert torch.allclose(tensor(eval(in_python(code, tmp_path))), own, atol=.02)

def test_export_geometry(folder):
    "fastai's transforms of an export show the same picture as ours"
    dls = get_dls(48, path=folder, dblock=block(), **kw)
    f = files(folder)[:4]
    a,b = (first(o.test_dl(f))[0] for o in (dls, dls.new_empty()))
    assert a.shape==b.shape and (a-b).abs().mean()<.1*a.std()
    assert type(dls.new_empty()) is DataLoaders
    tfms = [t for dl in dls.new_empty() for t in (*dl.after_item.fs,*dl.after_batch.fs)]
    assert {type(t).__module__.split('.')[0] for t in tfms}=={'fastai'}

# 2. the Learner as it is

class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_model(4)
    def forward(self, x): return self.body(x)

class AddInput(Callback):
    "The model has a second input, which only this callback knows"
    def before_batch(self): self.learn.xb = (*self.xb, tensor(2.))

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_model(2)
    def forward(self, x, by): return self.body(x)*by

class Unpack(Callback):
    def after_pred(self): self.learn.pred = self.pred['logits']

class Dict(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small_model(2)
    def forward(self, x): return dict(logits=self.body(x))

class SetLoss(Callback):
    def before_fit(self): self.learn.loss_func = CrossEntropyLossFlat()

def plain_dls(d): return block().dataloaders(d, path=d, **kw)
def cnn(d, model=None, **kwargs):
    return Learner(plain_dls(d), model or small_model(2), **{'loss_func':CrossEntropyLossFlat(), **kwargs})

def boxes(d):
    dblock = block(ImageBlock, BBoxBlock, BBoxLblBlock, n_inp=1, get_y=[lambda f: [[9,9,30,40]], lambda f: ['x']])
    return Learner(dblock.dataloaders(d, path=d, **kw), Boxes(),
                   loss_func=lambda p,b,l: F.mse_loss(p, TensorBase(b[:,0])))

class OtherLoss:
    "Cannot be used before the callback has replaced it"
    def __call__(self, *args): raise RuntimeError('no loss yet')

learners = dict(
    boxes     = boxes,
    add_input = lambda d: cnn(d, Scaled(), cbs=AddInput()),
    unpack    = lambda d: cnn(d, Dict(), cbs=Unpack()),
    set_loss  = lambda d: cnn(d, loss_func=OtherLoss(), cbs=SetLoss()),
    wrapped   = lambda d: cnn(d, opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)),
    spectral  = lambda d: cnn(d, nn.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(3, 2, 3)),
                                               nn.AdaptiveAvgPool2d(1), nn.Flatten())),
)

@pytest.mark.parametrize('name', learners)
def test_any_learner(folder, name): trains(learners[name](folder))

def test_refused_without_its_callback(folder):
    "The callback of a run is tried too, and a model that fails with all of them is refused"
    trains(cnn(folder, Scaled()), cbs=AddInput())
    with pytest.raises(ValueError, match='The model fails at every size, that of `learn.dls` too .*by.*check=False'):
        cnn(folder, Scaled()).fit_progressive(**two)

def test_torch_loaders(folder):
    from torchvision import datasets as D, transforms as T
    def dls(size, bs):
        ds = D.ImageFolder(folder, T.Compose([T.Resize((size,size)), T.ToTensor()]))
        return DataLoaders(*(torch.utils.data.DataLoader(torch.utils.data.Subset(ds, o), batch_size=bs)
                             for o in (range(8),range(8, 12))))
    trains(Learner(dls(48, 4), small_model(2), loss_func=nn.CrossEntropyLoss()), get_dls=dls)

def test_two_images(folder):
    "Two inputs"
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_model(2)
        def forward(self, a, b): return self.body(a)+self.body(b)
    dblock = block(ImageBlock, ImageBlock, CategoryBlock, n_inp=2, get_x=[noop,noop])
    trains(Learner(dblock.dataloaders(folder, path=folder, **kw), Pair(), loss_func=CrossEntropyLossFlat()))

# 3. leaks, false and true

def images(): return list(map(PILImage.create, arrays()))
def pixels(row): return np.stack([row.values[1:].reshape(28,28).astype(np.uint8)]*3, 2)

def in_memory(items, get_x, get_y):
    return DataBlock((ImageBlock,CategoryBlock), get_x=get_x, get_y=get_y, splitter=seed,
                     item_tfms=Resize(48)).dataloaders(items, **kw)

memory = dict(
    pil_tuples = lambda: in_memory([(o,i%2) for i,o in enumerate(images())], ItemGetter(0), ItemGetter(1)),
    tuples     = lambda: in_memory([(a,i%2) for i,a in enumerate(arrays())], ItemGetter(0), ItemGetter(1)),
    dicts      = lambda: in_memory([dict(x=a, y=i%2) for i,a in enumerate(arrays())], itemgetter('x'), itemgetter('y')),
    cells      = lambda: in_memory(pd.DataFrame(dict(x=arrays(), y=[0,1]*6)), ColReader('x'), ColReader('y')),
    pixels     = lambda: in_memory(pd.DataFrame([[i%2,*a[:28,:28,0].flatten()] for i,a in enumerate(arrays())]),
                                   pixels, itemgetter(0)),
)

@pytest.mark.parametrize('name', memory)
@pytest.mark.every(2)
def test_no_false_leak(name):
    dls = memory[name]()
    assert len(item_keys(dls, 0))==8 and len(item_keys(dls, 1))==4 and not image_files(dls)
    trains(cnn_of(dls))

@pytest.mark.parametrize('name', memory)
def test_true_leak(name):
    "Data of these kinds that are split otherwise at each size are refused, with the way out of a false alarm"
    global seed
    n,own = iter(range(1, 99)),seed
    def _dls(size, bs):
        global seed
        seed = RandomSplitter(.34, seed=next(n))
        try: return memory[name]().at_size(size)
        finally: seed = own
    with pytest.raises(ValueError, match=r'Leak: .* \(check=False trains'):
        cnn_of(memory[name]()).fit_progressive(**two, get_dls=_dls)

def test_numbers_of_two_datasets():
    "The first row of one is not the first row of the other; in one dataset it is"
    a,b = arrays(8),arrays(12)[8:]
    def _dl(source):
        tfms = [[lambda i: source[i],PILImage.create], [lambda i: i%2,Categorize(vocab=[0,1])]]
        return TfmdDL(Datasets(range(len(source)), tfms), after_item=[Resize(48),ToTensor()],
                      after_batch=IntToFloatTensor, **kw)
    dls = DataLoaders(_dl(a), _dl(b))
    assert not item_keys(dls, 0)&item_keys(dls, 1)
    trains(cnn_of(dls))
    dls = DataLoaders(_dl(a), _dl(a))
    with pytest.raises(ValueError, match='Leak: 8 images'): cnn_of(dls).fit_progressive(**two)

def test_never_by_repr():
    "Equal `repr`s are different items"
    class Item:
        def __init__(self, a): self.a = a
        def __repr__(self): return 'an item'
    dls = in_memory([Item(a) for a in arrays()], lambda o: o.a, lambda o: int(o.a[0,0,0]>100))
    assert len(item_keys(dls, 0))==8

# 4. files that fastai reads in other ways

def torch_files(d):
    to = d.parent/'pt'
    to.mkdir(exist_ok=True)
    for i,a in enumerate(arrays()): torch.save(torch.from_numpy(a), to/f'{"ab"[i%2]}_{i}.jpg')
    return get_files(to).sorted()

class Zipped:
    "Names in a zip that end in .jpg"
    def __init__(self, d):
        import zipfile
        self.file = d/'all.zip'
        with zipfile.ZipFile(self.file, 'w') as z:
            for f in files(d): z.write(f, f.name)
    def names(self, _): return [f'{i}.jpg' for i in range(12)]
    def __call__(self, name):
        import zipfile, io
        with zipfile.ZipFile(self.file) as z: return PILImage.create(io.BytesIO(z.read(name)).getvalue())

class Bands(PILImage):
    "One's own way to read"
    @classmethod
    def create(cls, f, **kwargs): return cls(Image.fromarray(np.load(f)))

@pytest.mark.parametrize('name', ['npy','pt','zip','own'])
def test_other_readers(folder, name):
    d = folder
    if name=='npy': dblock = block(get_items=partial(files, suffix='.npy'), get_x=np.load)
    if name=='pt': dblock = block(get_items=torch_files, get_x=torch.load, get_y=lambda f: f.name[0])
    if name=='own': dblock = block(ImageBlock(Bands), CategoryBlock, get_items=partial(files, suffix='.npy'))
    if name=='zip':
        z = Zipped(folder)
        dblock = block(get_items=z.names, get_x=z, get_y=lambda n: int(n.split('.')[0])%2)
    dls = dblock.dataloaders(d, path=d, **kw)
    assert not image_files(dls) and len(item_keys(dls, 0))==8
    trains(cnn_of(dls))

# 5. the checks take no longer than the data are large

n_read = Counter()      # no attribute leads to it, so that the checks do not put it back

def test_a_getter_runs_once_per_item(folder):
    "As the keys are the same at each size, they are read once; images are not opened for them"
    n = n_read
    def _get(f): n_read[f] += 1; return f
    learn = cnn_of(block(get_x=_get).dataloaders(folder, path=folder, **kw))
    n.clear()
    check_run(Run(learn, 3, (24,32,48)))
    assert min(n.values())==2 and n.total()<=12*2 + 24      # for files and for keys; two of each batch, 4 for metrics

def test_bar_of_long_checks(capsys):
    from fastai_progresize.utils import bar_if_long
    assert list(bar_if_long(range(5)))==list(range(5)) and capsys.readouterr().out==''
    from unittest.mock import patch
    with patch('fastai_progresize.utils.perf_counter', lambda t=itertools.count(0., 2.): next(t)):
        assert list(bar_if_long(range(5)))==list(range(5))
    assert '100.00%' in capsys.readouterr().out

# 6. models that one size suits and another does not

class OneSize(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size,self.body = size,small_model(2)
    def forward(self, x):
        assert x.shape[-1]==self.size
        return self.body(x)

@pytest.mark.parametrize('size,says', [(32, 'fails on images of 48x48 px .AssertionError.*takes those of 32x32 px'),
                                       (48, 'fails on images of 32x32 px .*takes those of 48x48 px'),
                                       (224, 'The model fails at every size, that of `learn.dls` too')])
def test_one_size(folder, size, says):
    "Also if it fails at the size of the learner's own data"
    learn = cnn(folder, OneSize(size))
    before = weights(learn)
    with pytest.raises(ValueError, match='(?s)'+says): learn.fit_progressive(**two)
    assert same_weights(before, weights(learn))

class Auxiliary(nn.Module):
    "As inception: in training it returns two outputs"
    def __init__(self):
        super().__init__()
        self.body = small_model(2)
    def forward(self, x):
        y = self.body(x)
        return (y,y) if self.training else y

def test_auxiliary_head(folder):
    with pytest.raises(ValueError, match='The loss fails at every size'):
        cnn(folder, Auxiliary()).fit_progressive(**two)
    class First(Callback):
        run_valid = False
        def after_pred(self): self.learn.pred = self.pred[0]
    trains(cnn(folder, Auxiliary(), cbs=First()))

def test_batches_of_one(folder):
    "BatchNorm after pooling does not take one image; a whole batch decides where two are too few"
    def _model():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(),
                             nn.Linear(4, 2))
    says = '(?s)fails on a batch of one image, bs=1 at 48x48 px .*more than 1 value per channel'
    with pytest.raises(ValueError, match=says):
        cnn(folder, _model()).fit_progressive(**two, bs=(4,1))
    trains(cnn(folder, _model()))
    def _three(p, y):
        assert len(p)>2
        return F.cross_entropy(p, TensorBase(y))
    learn = cnn(folder, _model(), loss_func=_three)
    learn.dls.valid.bs = 4
    trains(learn)

# 7. what a transform sees of an image before it is resized

class Upright(Transform):
    order = -1
    def encodes(self, o:PILImage): return PILImage.create(ImageOps.exif_transpose(o))

class Pixels(Transform):
    order = -1
    def encodes(self, o:PILImage):
        assert o.im.size==o.size
        return o

@pytest.mark.parametrize('cache', [False,True])
@pytest.mark.parametrize('tfm', [Upright,Pixels])
def test_images_as_they_were_read(tmp_path, tfm, cache):
    for i in range(6):
        y,x = np.mgrid[:120,:160]
        im = Image.fromarray(np.stack([x, y, x+10*i], 2).astype(np.uint8))
        exif = im.getexif()
        exif[274] = 6
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        im.save(tmp_path/'ab'[i%2]/f'{i}.jpg', exif=exif, quality=95)
    dls = block(item=[tfm(),Resize(48)]).dataloaders(tmp_path, path=tmp_path, bs=2, num_workers=0)
    own,fast = (o.valid.one_batch()[0] for o in (dls, dls.fast(cache=tmp_path/'copies' if cache else False)))
    assert (own-fast).abs().mean()<.02

# 8. callbacks without `state_dict`

class Average(Callback):
    "A moving average of the weights"
    order = 70
    def before_fit(self): self.ema,self.n = deepcopy(self.model),0
    def after_batch(self):
        if not self.training: return
        self.n += 1
        with torch.no_grad():
            for a,b in zip(self.ema.parameters(), self.model.parameters()): a.lerp_(b, .1)

class Queue(Callback):
    def __init__(self): self.last = itertools.cycle(range(9))
    def before_batch(self): next(self.last)

def test_callbacks_are_kept(path, tmp_path):
    "A moving average is resumed, bit-identical"
    whole = new_learner(path, 1, cbs=[Average()], folder=tmp_path/'a')
    run(whole)
    part = new_learner(path, 1, cbs=[Average()], folder=tmp_path/'b')
    with pytest.raises(KeyboardInterrupt): run(part, checkpoint='a', cbs=StopAt(7))
    again = new_learner(path, 1, cbs=[Average()], folder=tmp_path/'b')
    run(again, checkpoint='a', resume=True, cbs=StopAt(10**6))
    assert again.average.n==whole.average.n
    for a,b in zip(again.average.ema.parameters(), whole.average.ema.parameters()): assert torch.equal(a, b)
    assert same_weights(weights(again), weights(whole))

def test_callbacks_that_start_over(path, tmp_path):
    "They are named, training continues, and the run cannot be resumed"
    learn = new_learner(path, 1, cbs=[Queue()], folder=tmp_path)
    says = '`queue.last` changed in training and cannot be stored .*give the callback `state_dict`'
    with pytest.warns(UserWarning, match=says):
        with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', cbs=StopAt(7))
    again = new_learner(path, 1, cbs=[Queue()], folder=tmp_path)
    before = weights(again)
    with pytest.raises(ValueError, match='cannot be resumed: `queue.last` changed and could not be stored'):
        run(again, checkpoint='a', resume=True)
    assert same_weights(before, weights(again)) and again.opt is None

# 9. what is not a parameter stays too

class Counting(nn.Module):
    "A loss with a counter, a running mean and a weight"
    def __init__(self):
        super().__init__()
        self.n,self.seen = 0,[]
        self.register_buffer('mean', torch.zeros(1))
        self.w = nn.Parameter(torch.ones(1))
    def forward(self, p, y):
        self.n += 1
        self.seen.append(len(y))
        self.mean += .1
        return F.cross_entropy(p, TensorBase(y))*self.w + self.mean.sum()

def test_items_stay_what_they_are():
    "Images in memory are of the class that they were of"
    items = [(o,i%2) for i,o in enumerate(images())]
    dls = in_memory(items, ItemGetter(0), ItemGetter(1))
    dls.fast().train.one_batch()
    assert all(type(o) is PILImage for o,_ in items)

def test_copies_are_freed(folder):
    "A copy of the Learner goes when its trial ends, not when Python next looks for cycles"
    import gc, weakref
    learn,made = cnn(folder),[]
    class Keep(Callback):
        def before_fit(self): made.append(weakref.ref(self.model))
    gc.collect()
    gc.disable()
    try:
        with Trial(learn, Keep()).learner(learn.dls) as trial: trial.fit(1)
        assert len(made)==1 and made[0]() is None
    finally: gc.enable()

class CountingModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.body,self.n = small_model(2),0
    def forward(self, x):
        self.n += 1
        return self.body(x)

def test_losses_and_models_that_count(folder):
    learn = cnn(folder, CountingModel(), loss_func=Counting())
    learn.preflight(**two, seconds=.02)
    check_run(Run(learn, **two))
    learn.validate_sizes((32,48), show_plot=False)
    assert learn.loss_func.n==0 and learn.loss_func.seen==[] and learn.loss_func.mean==0 and learn.model.n==0
    assert learn.loss_func.w.grad is None

# 10. arguments

def test_numbers_that_look_like_sizes(folder):
    with pytest.raises(ValueError, match=re.escape('n_epoch=(32, 64) would be 96 epochs and looks like sizes')):
        cnn(folder).fit_progressive((32,64))
    assert Plan((32,64), sizes=(16,32)).n_epoch==96 and Plan((3,5), size=64).n_epoch==8

def test_arrays_as_arguments():
    own = Plan([1,2], (32,48), bs=[8,4], lr_max=[1e-3,1e-4], fit='fine_tune')
    assert Plan(np.array([1,2]), np.array([32,48]), bs=np.array([8,4]), lr_max=np.array([1e-3,1e-4]),
                fit='fine_tune').stages==own.stages
    assert [s.size for s in Plan(3, np.array([[24,32],[48,64]]))]==[(24,32),(48,64)]
    assert [s.size for s in Plan(3, range(32, 97, 32))]==[32,64,96]

@pytest.mark.parametrize('size', [(64,96),(128,224),(480,640),(224,128)])
def test_default_sizes_keep_the_shape(size):
    sizes = default_sizes(size)
    assert len(sizes)==3
    for h,w in sizes: assert abs(h/w/(size[0]/size[1])-1)<.04

def test_slice_of_lrs(folder):
    learn = small_learner(plain_dls(folder), 2)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**two, lr_max=slice(1e-4,1e-3))
    assert learn.stage_history.lr.max()==pytest.approx(1e-3)
    learn.freeze()
    with pytest.raises(ValueError, match='`fine_tune` takes one number'): Run(learn, **two, lr_max=slice(1e-4,1e-3))
    assert [s.lr for s in Run(learn, **two, lr_max=1e-3).plan]==[1e-3,1e-3]

def test_metrics_of_our_names(folder):
    def size(p, y): return tensor(7.)
    def lr(p, y): return tensor(8.)
    learn = cnn(folder, metrics=[size,lr])
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**two)
    df = learn.stage_history
    assert list(df['size'])==[32,48] and list(df['size (metric)'])==[7,7] and list(df['lr (metric)'])==[8,8]
    assert df['lr'].max()<1

def test_plan_of_a_learner_shows_what_is_used(folder):
    df = Run(cnn(folder, lr=2e-3), 2).plan.to_df()
    assert list(df.bs)==[4]*len(df) and list(df['lr'])==[2e-3]*len(df)
