"Fast loading stands in for fastai's and Pillow's own functions alone: what you put in their place reads the images"
import functools, pickle, pickletools, zipfile
import pytest
from plum import Function
from fastai.vision import core
from fastai.vision import augment as fastai_augment
from helpers import *
from fastai_progresize.checks import trial
from fastai_progresize.load import fast as loaders
from fastai_progresize.load.augment import AffineOnce, one_interpolation
from fastai_progresize.load.read import ScaledImage
from test_bad_input import refused

@pytest.fixture(autouse=True)
def untried():
    loaders.fast_works.cache_clear()
    yield
    loaders.fast_works.cache_clear()

def inverted(im): return Image.fromarray(255-np.array(im.convert('RGB')))

def own_method(cls, own):
    "`encodes` of `cls` with a method that a user has added"
    res = Function(own)
    for f in [*(m.implementation for m in cls.encodes.methods), own]: res.dispatch(f)
    return res

real_create,real_load,real_open,real_crop = PILBase.create.__func__,core.load_image,Image.open,Image.Image.crop_pad

def set_create(m, cls):
    @classmethod
    @functools.wraps(real_create)
    def create(c, fn, **kwargs): return c(inverted(real_create(c, fn, **kwargs)))
    m.setattr(cls, 'create', create)

def set_function(m):
    m.setattr(PILImage, 'create', staticmethod(lambda fn, **kwargs: PILImage(inverted(real_open(fn)))))

def set_load(m):
    @functools.wraps(real_load)
    def load_image(fn, mode=None): return inverted(real_load(fn, mode))
    m.setattr(core, 'load_image', load_image)

def set_open(m): m.setattr(Image, 'open', lambda fn, *args, **kwargs: inverted(real_open(fn, *args, **kwargs)))

readers = dict(create=partial(set_create, cls=PILImage), base=partial(set_create, cls=PILBase), load=set_load,
               open=set_open)

def set_crop(m):
    def crop_pad(x, *args, **kwargs): return real_crop(x, *args, **kwargs).transpose(Image.FLIP_TOP_BOTTOM)
    m.setattr(Image.Image, 'crop_pad', crop_pad)

def set_resize(m):
    def encodes(self, x:Image.Image): return x.resize(self.size, NEAREST).transpose(Image.FLIP_TOP_BOTTOM)
    m.setattr(Resize, 'encodes', own_method(Resize, encodes))

def set_tensor(m):
    def encodes(self, o:PILImage): return TensorImage(255-image2tensor(o))
    m.setattr(ToTensor, 'encodes', own_method(ToTensor, encodes))

def set_image2tensor(m):
    real = core.image2tensor
    m.setattr(core, 'image2tensor', lambda o: 255-real(o))

def set_grid(m):
    real = fastai_augment._grid_sample
    m.setattr(fastai_augment, '_grid_sample', lambda *args, **kwargs: 1-real(*args, **kwargs))

others = dict(crop=set_crop, tensor=set_tensor, image2tensor=set_image2tensor)

def plain_dls(path, **kwargs):
    return ImageDataLoaders.from_folder(path, valid='val', item_tfms=Resize(48), bs=8, num_workers=0, **kwargs)

def batches(dls):
    "A batch of training images, in their order, and one of validation"
    res = []
    for dl in dls.loaders:
        set_seed(1)
        res.append(dl.new(shuffle=False, drop_last=False).one_batch()[0])
    return res

def differ(a, b):
    "How far apart images are, in training and validation: the mean of 0 to 1"
    pairs = zip(*(batches(o) if isinstance(o, DataLoaders) else o for o in (a,b)))
    return max((x-y).abs().mean() for x,y in pairs)

def same(a, b): return all(torch.equal(x, y) for x,y in zip(batches(a), batches(b)))

@pytest.mark.parametrize('change', [*readers, *others])
def test_pixels_are_yours(path, monkeypatch, change):
    "Replaced before the `DataLoaders` are made, or after they are made fast: the pixels are those of fastai alone"
    before,first_fast = plain_dls(path),plain_dls(path).fast()
    was = batches(before)
    assert type(first_fast.train_ds[0][0]) is ScaledImage      # fastai's own is replaced
    {**readers,**others}[change](monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        dls = plain_dls(path)
        for own in (dls, dls.at_size(32)):
            assert same(own.fast(), own) if change in readers else differ(own.fast(), own)<.03
    assert differ(was, dls)>.05                         # the change is one
    if change in ('load','open','crop'): assert same(first_fast, before)      # looked up when an image is read
    if change in readers: assert differ(before, first_fast)<.03               # a dataset keeps its own `create`

def small_get_dls(path, **kwargs): return get_dls(32, 8, path, num_workers=0, stats=None, **kwargs)

@pytest.mark.parametrize('change', [*readers, 'tensor', 'image2tensor'])
def test_get_dls(path, monkeypatch, change):
    "Images of `get_dls` are inverted where the reader inverts them"
    was = small_get_dls(path).valid.one_batch()[0]
    {**readers,**others}[change](monkeypatch)
    dls = small_get_dls(path)
    assert (was+dls.valid.one_batch()[0]-1).abs().mean()<.02

def test_get_dls_resize(path, monkeypatch):
    was = small_get_dls(path).valid.one_batch()[0]
    set_resize(monkeypatch)
    got = small_get_dls(path).valid.one_batch()[0]
    assert (was.flip(-2)-got).abs().mean()<.05<(was-got).abs().mean()

class Seen(Callback):
    "Validation images of the last epoch, and the mean of all that was trained on"
    order,run_valid = 100,True
    def before_epoch(self): self.valid,self.means = [],[]
    def before_batch(self):
        if self.training: self.means.append(self.x.mean().item())
        else: self.valid.append(self.x.cpu())

@pytest.mark.parametrize('change', readers)
def test_fit(path, monkeypatch, change):
    "Training, validation and prediction see the pixels of one reader"
    mean = torch.cat([o[0] for o in plain_dls(path).fast().train]).mean()
    readers[change](monkeypatch)
    learn = small_learner(plain_dls(path), cbs=Seen)
    learn.fit_progressive(2, sizes=(32,48))
    assert torch.equal(torch.cat(learn.seen.valid), torch.cat([o[0] for o in learn.dls.valid]))
    assert abs(np.mean(learn.seen.means)-(1-mean))<.02
    files = list(learn.dls.valid.items)
    assert torch.equal(learn.dls.test_dl(files).one_batch()[0], learn.dls.valid.one_batch()[0])
    assert learn.predict(files[0])[2].shape==(10,)

@pytest.mark.parametrize('change', [*readers,'function'])
@pytest.mark.parametrize('decoded', (False,True))
def test_copies_are_refused(path, tmp_path, monkeypatch, change, decoded):
    "Copies would be of other pixels"
    {**readers,'function':set_function}[change](monkeypatch)
    kw,says = dict(cache=tmp_path/'c', decoded=decoded),"not read by fastai's own `PILImage.create`"
    dls = plain_dls(path)
    learn = small_learner(dls)
    with pytest.raises(ValueError, match=says): dls.fast(**kw)
    with pytest.raises(ValueError, match=says): small_get_dls(path, **kw)
    with pytest.raises(ValueError, match=says): learn.fit_progressive(2, sizes=(32,48), fast=kw)
    assert learn.dls is dls and not (tmp_path/'c').exists()

@pytest.mark.parametrize('change', ('load','open'))
@pytest.mark.parametrize('decoded', (False,True))
def test_copies_from_before(path, tmp_path, monkeypatch, change, decoded):
    "Copies that are there already are not read"
    dls = plain_dls(path)
    fast = dls.fast(cache=tmp_path/'c', decoded=decoded)
    assert not same(fast, dls) or decoded
    for o in fast.loaders: list(o)
    readers[change](monkeypatch)
    assert differ(fast, plain_dls(path))<.02

# transforms

class Invert(RandomResizedCropGPU):
    "A transform of one's own, of a kind that fast loading has its like of"
    def encodes(self, x:TensorImage): return 1-self._encode(x, self.mode)

class InvertFlip(Flip):
    def encodes(self, x:TensorImage): return 1-self._encode(x, self.mode)

def black(b, split_idx): b[0].zero_() if isinstance(b, tuple) else b.zero_()

@pytest.mark.parametrize('make', [
    lambda: [Invert(32, ratio=(1,1))],
    lambda: [InvertFlip(size=32)],
], ids=('crop','flip'))
def test_own_subclasses(path, make):
    "A subclass of yours is not replaced by its base class's like"
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(64),
                      splitter=GrandparentSplitter(valid_name='val'), batch_tfms=make())
    dls = block.dataloaders(path, bs=8, num_workers=0)
    a,b = (o.valid.one_batch()[0] for o in (dls,dls.fast()))
    assert (a-b).abs().mean()<.03

class Half(Resize):
    "Resizes in its own way"
    def encodes(self, x:PILImage): return x.resize((16,16)).resize(self.size)

def test_own_resize():
    calls = []
    def before_call(b, split_idx): calls.append(b)
    for t in (Half(64), Resize(64, before_call=before_call), Resize(64, split_idx=0)):
        assert one_interpolation([t], aug_transforms(size=32), 32) is None
    assert one_interpolation([Resize(64)], aug_transforms(size=32), 32) is not None

def test_own_warp(monkeypatch):
    "A coordinate transform of one's own is called, even if it has the points of a warp"
    t = aug_transforms(size=16, max_lighting=0, p_affine=1.)[0]
    class Stay(type(t.coord_fs[0])):
        def __call__(self, x, invert=False): return x
    t.coord_fs = L(Stay(.5, p=1.))
    x,res = TensorImage(torch.rand(4,3,24,24)),[]
    for o in (t,AffineOnce(t, 16)):
        set_seed(0)
        res.append(o(x, split_idx=0))
    assert (res[0]-res[1]).abs().max()<1e-4

def test_own_sampling(monkeypatch):
    "So is a function behind the transforms"
    t = aug_transforms(size=16, max_lighting=0)[0]
    once,x,res = AffineOnce(t, 16),TensorImage(torch.rand(4,3,24,24)),[]
    set_grid(monkeypatch)
    for o in (t,once):
        set_seed(0)
        res.append(o(x, split_idx=0))
    assert (res[0]-res[1]).abs().max()<1e-4

class Thing(PILImage): pass

class AsThing(Transform):
    order = 2
    def encodes(self, o:PILImage): return Thing(o)

def test_tensors_of_own_types(path, monkeypatch):
    "What a type of yours becomes as a tensor, registered after this package was imported"
    def encodes(self, o:Thing): return TensorImage(torch.zeros(3, 48, 48, dtype=torch.uint8))
    monkeypatch.setattr(ToTensor, 'encodes', own_method(ToTensor, encodes))
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      item_tfms=[Resize(48),AsThing()], splitter=GrandparentSplitter(valid_name='val'))
    dls = block.dataloaders(path, bs=8, num_workers=0)
    assert dls.valid.one_batch()[0].sum()==0 and dls.fast().valid.one_batch()[0].sum()==0

def test_own_items(path, tmp_path, monkeypatch):
    "Batches of kept pixels do not pass by a `DataLoader` that makes items in another way"
    real = DataLoader.create_item
    def create_item(self, s):
        x,y = real(self, s)
        return PILImage(inverted(x)),y
    monkeypatch.setattr(DataLoader, 'create_item', create_item)
    dls = plain_dls(path)
    a,b = (o.valid.one_batch()[0] for o in (dls,dls.fast(cache=tmp_path/'c', decoded=True)))
    assert (a-b).abs().mean()<.03

def test_replaced_before_the_import(path, tmp_path):
    "Nothing is taken for fastai's own because it was there first"
    code = """
import sys, functools
from fastai.vision.all import *
from fastai.vision import core
real = core.load_image
@functools.wraps(real)
def load_image(fn, mode=None):
    im = real(fn, mode)
    return im if Path(fn).name=='a.jpg' else Image.fromarray(255-np.array(im))      # which fast loading tries itself on
core.load_image = load_image
from fastai_progresize.all import *
dls = ImageDataLoaders.from_folder(sys.argv[1], valid='val', item_tfms=Resize(32), bs=8, num_workers=0)
a,b = (o.valid.one_batch()[0] for o in (dls,dls.fast()))
print(torch.equal(a, b))"""
    assert in_python(code, tmp_path, path)=='True\n'

# crops

@pytest.fixture(scope='module')
def squares(tmp_path_factory):
    "A white square on black, an eighth of the height, in images of 256 px"
    d = tmp_path_factory.mktemp('squares')
    im = np.zeros((256,256,3), dtype=np.uint8)
    im[112:144,112:144] = 255
    for part,n in (('train',8),('val',4)):
        for label in 'ab':
            (d/part/label).mkdir(parents=True)
            for i in range(n): Image.fromarray(im).save(d/part/label/f'{i}.png')
    return d

def crop_dls(d, item, batch=None):
    return ImageDataLoaders.from_folder(d, valid='val', item_tfms=item, batch_tfms=batch, bs=4, num_workers=0)

def share(dls): return (dls.valid.one_batch()[0][:,0]>.5).float().mean().item()

class NoResize(Transform):
    def encodes(self, x:PILImage): return x

only_crops = dict(
    random    = lambda: (RandomCrop(64), None),
    crop_pad  = lambda: (CropPad(64), None),
    rectangle = lambda: (RandomCrop((64,32)), None),
    batch     = lambda: (RandomCrop(64), aug_transforms()),
    after     = lambda: ([NoResize(),RandomCrop(64)], None),
    twice     = lambda: ([CropPad(128),RandomCrop(64)], None),
    own       = lambda: (type('Mine', (RandomCrop,), {})(64), None),
)

@pytest.mark.parametrize('kind', only_crops)
def test_only_crops(squares, kind):
    "A smaller piece is not a smaller image: refused before the first batch. At its own size it trains"
    dls = crop_dls(squares, *only_crops[kind]())
    size,is_seen = tfms_size(dls.train),share(dls)
    learn = small_learner(dls, cbs=Record)
    with refused(learn, 'px without resizing them', 'put a `Resize` before it', 'pass a function as `get_dls=`'):
        learn.fit_progressive(2, sizes=(32,size))
    for f in (dls.at_size, lambda o: learn.fit_progressive(2, sizes=(o,size), check=False)):
        with pytest.raises(ValueError, match='put a `Resize` before it'): f(32)
    assert learn.dls is dls and not learn.record.shapes
    assert share(dls.at_size(size))==is_seen and tfms(dls.at_size(size))==tfms(dls)
    learn.fit_progressive(1, sizes=(size,))
    assert {o[2:] for o in learn.record.shapes}=={size}

def tfms(dls): return [t for dl in dls.loaders for t in (*dl.after_item.fs,*dl.after_batch.fs)]

crops_and_sizes = dict(
    before       = (lambda: ([RandomCrop(128),Resize(64)], None), 128),
    pad_before   = (lambda: ([CropPad(128),Resize(64)], None), 128),
    before_batch = (lambda: (RandomCrop(128), Flip(size=64)), 128),
    before_rrc   = (lambda: (CropPad(128), RandomResizedCropGPU(64)), 128),
    before_ratio = (lambda: ([CropPad(128),RatioResize(64)], None), 128),
    both         = (lambda: ([CropPad(128),Resize(80),RandomCrop(64)], None), 128*.8),
)

@pytest.mark.parametrize('kind', crops_and_sizes)
def test_same_part(squares, kind):
    "The square has the same share of the images at every size; nothing is touched at their own"
    make,side = crops_and_sizes[kind]
    dls = crop_dls(squares, *make())
    assert tfms(dls.at_size(64))==tfms(dls)
    for new in (dls, dls.at_size(32), dls.at_size(32).fast(), dls.at_size(32).at_size(64)):
        assert share(new)==pytest.approx((32/side)**2, rel=.15)
    assert dls.at_size(32).one_batch()[0].shape[2:]==(32,32)
    learn = small_learner(dls, cbs=Record)
    learn.fit_progressive(2, sizes=(32,64))
    assert {o[2:] for o in learn.record.shapes}=={(32,32),(64,64)}

# workers that are spawned

def all_loaders(path, tmp):
    "Each kind of loader that this package makes, by name"
    kw = dict(path=path, num_workers=1)
    plain = ImageDataLoaders.from_folder(path, valid='val', item_tfms=Resize(48), bs=8, num_workers=1,
                                         batch_tfms=aug_transforms(size=32, min_scale=.5))
    return dict(at_size=plain.at_size(16), aug=plain.with_aug(.5), fast=plain.fast(),
                fast_aug=plain.with_aug(.5).fast(), cache=plain.fast(cache=tmp), get_dls=get_dls(32, 8, **kw),
                decoded=plain.fast(cache=tmp, decoded=True), get_dls_cache=get_dls(32, 8, cache=tmp, **kw),
                verified=get_dls(32, 8, verify='skip', **kw),
                get_dls_decoded=get_dls(32, 8, cache=tmp, decoded=True, **kw))

def test_loaders_are_pickled(path, tmp_path):
    "Loaders of each kind, those of a trial and of `preflight` too, which pickle reads back with the same batches"
    tried = []
    for name,dls in all_loaders(path, tmp_path/'c').items():
        for dl in dls.loaders:
            filled,_ = trial._filled(dl, .05)
            for o in (dl, filled, trial.Repeated(dl, [1])):
                new = pickle.loads(pickle.dumps(o))
                tried.append(name)
                assert type(new) is type(o) and (dl.shuffle or new.get_idxs()==o.get_idxs())
            a,b = (o.one_batch()[0] for o in (dls.valid,pickle.loads(pickle.dumps(dls.valid))))
            assert torch.equal(a, b)
    assert len(tried)==60

@pytest.mark.long
def test_preflight_with_spawned_workers(path, tmp_path):
    "What `preflight` reads to fill decoded copies, with workers that are spawned"
    code = """
import sys, torch
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.checks import trial
dls = get_dls(32, 8, sys.argv[1], num_workers=1, cache=sys.argv[2], decoded=True)
torch.multiprocessing.set_start_method('spawn')
dl,times = trial._filled(dls.valid, 60)
print(len(times), dl.get_idxs())"""
    assert in_python(code, tmp_path, path, tmp_path/'c').splitlines()[-1]=='2 [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]'

# what an export names: the dispatch of a function keeps the types that it has met

def brighter(im:PILImage): return im
def darker(im:PILImage): return im
def of_tensor(x:TensorImage): return x
def name_in_row(r): return r['name']

def named_in(exported):
    "What of this package an exported Learner names"
    with zipfile.ZipFile(exported) as z:
        data = z.read(first(o for o in z.namelist() if o.endswith('data.pkl')))
    return [str(o) for _,o,_ in pickletools.genops(data) if 'fastai_progresize' in str(o)]

uses = dict(
    preflight=lambda learn, fast: learn.preflight(2, sizes=(32,48), fast=fast, seconds=.01),
    fit_progressive=lambda learn, fast: learn.fit_progressive(2, sizes=(32,48), fast=fast),
    show_stages=lambda learn, fast: show_stages(learn.dls, (32,48)),
    validate_sizes=lambda learn, fast: learn.validate_sizes((32,48), fast=bool(fast), show_plot=False))

@pytest.mark.parametrize('use', uses)
@pytest.mark.parametrize('source', ['files','rows'])
@pytest.mark.parametrize('fast', [True,False,dict(cache='copies',decoded=True)], ids=str)
@pytest.mark.every(5)
def test_export_of_functions(path, tmp_path, fast, source, use):
    files = get_image_files(path).sorted()
    df = pd.DataFrame(dict(name=files.map(str), label=files.map(parent_label)))
    read = dict(get_items=get_image_files, get_y=parent_label)
    if source=='rows': read = dict(get_x=name_in_row, get_y=ColReader('label'))
    block = DataBlock((ImageBlock,CategoryBlock), splitter=RandomSplitter(seed=1), batch_tfms=of_tensor,
                      item_tfms=[Resize(48),brighter,Transform([brighter,darker])], **read)
    dls = block.dataloaders(path if source=='files' else df, bs=8, num_workers=0)
    learn = Learner(dls, xresnet18(n_out=10, widen=.1), metrics=accuracy, path=tmp_path)
    with learn.no_bar(): uses[use](learn, fast)
    learn.export('a.pkl')
    learn.dls = dls.fast()
    learn.validate()
    learn.predict(files[0] if source=='files' else df.iloc[0])
    learn.export('b.pkl')
    assert not named_in(tmp_path/'a.pkl') and not named_in(tmp_path/'b.pkl')
