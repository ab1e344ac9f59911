"""What is relied on in the insides of fastai, fasttransform, Pillow and accelerate, one small test each: a failure says
what has changed. Where it is missing, fast loading switches itself off, and other things raise a clear error."""
import inspect, types
import pytest
from fastai.callback.training import GradientAccumulation
from helpers import *
from fastai_progresize.data import copy_dl
from fastai_progresize.load import augment, fast as loaders, read

@pytest.fixture
def jpeg(tmp_path):
    file = tmp_path/'a.jpg'
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (48,64,3), dtype=np.uint8)).save(file)
    return file

# torch

def test_buffers():
    m = nn.Module()
    m.register_buffer('kept', torch.zeros(1))
    m.register_buffer('hidden', torch.zeros(1), persistent=False)
    assert set(m._buffers)=={'kept','hidden'}, "a module has its buffers in `_buffers`"
    assert m._non_persistent_buffers_set=={'hidden'}, "and the names of those that `state_dict` leaves out in a set"
    assert hasattr(m.state_dict(), '_metadata'), "`state_dict` has the versions of a module's parts in `_metadata`"

# Pillow

def test_jpeg_subclass(jpeg):
    f = read._Jpeg(jpeg)
    assert f._size==f.size==(64,48) and f._im is None, "an unread JpegImageFile has its size in `_size`, `_im` is None"
    assert not f.decoderconfig, "and nothing in `decoderconfig`"
    f.draft(None, (32,24))
    assert f.decoderconfig, "until `draft` is called"
    f.load()
    assert f.size==f._size==f.im.size==(32,24), "`draft` and `load` of a JpegImageFile keep `_size` up to date"
    assert '_size' in vars(Image.Image()), "Pillow keeps the size of an image in `_size`, which `ScaledImage` sets"
    assert '_mode' in vars(Image.Image()), "Pillow keeps the mode of an image in `_mode`, which `ScaledImage` sets"

def test_other_files_are_a_syntax_error(tmp_path):
    Image.new('RGB', (4,4)).save(tmp_path/'a.png')
    with pytest.raises(SyntaxError): read._Jpeg(tmp_path/'a.png')

def test_empty_image():
    im = Image.Image()
    assert im._im is None, "a new `Image` has `_im` None until there are pixels"
    im.im = Image.new('L', (2,2)).im
    assert im._im is not None, "setting `im` sets `_im`"

def test_bomb_check():
    with pytest.raises(Image.DecompressionBombError): Image._decompression_bomb_check((10**6,10**6))
    assert Image._decompression_bomb_check((10,10)) is None

def test_size_is_patched():
    size = Image.new('L', (2,3)).size
    assert isinstance(size, fastuple), "fastai patches `Image.size`, which `_Jpeg` undoes for speed"

# fastai and fasttransform: reading and augmenting

def test_open_args(jpeg):
    assert PILImage._open_args=={'mode':'RGB'} and PILImageBW._open_args=={'mode':'L'}, "the mode of a class of images"
    assert PILImage._tensor_cls is TensorImage and PILImageBW._tensor_cls is TensorImageBW

def test_encodes_of_a_function():
    f = Transform(PILImage.create).encodes.methods[0].implementation
    assert (f.__name__,f.__self__)==('create',PILImage), "`Transform(PILImage.create).encodes` tells who reads images"

def test_subclass_keeps_methods():
    class Mine(ToTensor):
        def encodes(self, o:str): return len(o)
    n = len(ToTensor.encodes.methods)
    assert Mine()('abc')==3 and type(Mine()(PILImage(Image.new('RGB', (2,2))))) is TensorImage
    assert len(ToTensor.encodes.methods)==n, "`encodes` of a subclass do not change those of `ToTensor`"

def test_crop_pad_is_called(jpeg):
    "All of fastai's item transforms resize by `crop_pad`, which `ScaledImage` has its own of"
    resizes = [Resize(16, o) for o in (ResizeMethod.Crop, ResizeMethod.Pad, ResizeMethod.Squish)]
    for tfm in (*resizes, RandomResizedCrop(16), RatioResize(16)):
        im = read.ScaledImage.create(jpeg)
        tfm(im, split_idx=0)
        assert im._im is None, f'{tfm.name} reads a `ScaledImage` in another way than by `crop_pad`'
    own,theirs = (list(inspect.signature(o.crop_pad).parameters)[1:] for o in (read.ScaledImage,Image.Image))
    assert own==theirs

def test_warps():
    t = aug_transforms(size=16, max_lighting=0, p_affine=1.)[0]
    t(TensorImage(torch.rand(2,3,24,24)), split_idx=0)
    assert t.coord_fs and all(map(augment._is_warp, t.coord_fs)), "a warp has `orig_pts` and `targ_pts`"
    w = t.coord_fs[0]
    assert find_coeffs(w.orig_pts, w.targ_pts).shape==(2,8,1), "`find_coeffs` gives eight coefficients for each image"
    assert t.mat.shape==(2,2,3), "`AffineCoordTfm` has drawn its matrices in `mat`"

def test_affine_arguments():
    names = ['self','aff_fs','coord_fs','size','mode','pad_mode','mode_mask','align_corners']
    got = list(inspect.signature(AffineCoordTfm.__init__).parameters)
    assert got[:8]==names, "arguments of `AffineCoordTfm`, by place"

# fastai's loaders and Learner

def test_fake_loader(dls):
    f = dls.train.fake_l
    names = ['self','d','pin_memory','num_workers','timeout','persistent_workers','pin_memory_device']
    assert list(inspect.signature(type(f).__init__).parameters)==names, "arguments of a loader's `fake_l`"
    assert isinstance(dls.train.rng, random.Random), "a loader draws the order of its items from `rng`"
    new = copy_dl(dls.train, bs=2)
    assert new.fake_l.d is new and new.fake_l is not f, "`fake_l` iterates over the loader in its `d`"

def test_epoch_loop():
    source = inspect.getsource(Learner._do_fit)
    assert 'for epoch in range(self.n_epoch):' in source and "self._with_events(self._do_epoch, 'epoch'" in source
    source = inspect.getsource(Learner.fit)
    assert 'self._with_events(self._do_fit' in source, "`fit` looks `_do_fit` up when it is called"
    assert list(inspect.signature(Learner._with_events).parameters)==['self','f','event_type','ex','final']

def test_end_cleanup(dls):
    learn = small_learner(dls)
    learn.xb,learn.loss = 1,2
    learn._end_cleanup()
    assert learn.xb==(None,) and learn.loss is None

def test_scheduler(dls):
    learn,cb = small_learner(dls),ParamScheduler({'lr': lambda pct: pct})
    learn.create_opt()
    cb.learn = learn
    cb._update_val(.25)
    assert learn.opt.hypers[0]['lr']==.25, "`ParamScheduler._update_val` sets hyper-parameters for a share of the cycle"

def test_accumulation():
    cb = GradientAccumulation(7)
    cb.before_fit()
    assert cb.n_acc==7 and cb.count==0

def test_order_of_the_swap():
    "`dls.train` is read after `before_epoch` and before `before_train`"
    source = inspect.getsource(Learner._do_epoch_train)
    assert source.index('self.dl = self.dls.train')<source.index("'train'")

# several processes

def test_broadcast():
    from fastai.distributed import DistributedDL, DistributedTrainer
    assert list(inspect.signature(DistributedDL._broadcast).parameters)==['self','t','rank']
    source = inspect.getsource(DistributedDL.get_idxs)
    assert 'self._broadcast(idxs,0)' in source, "the order of the items goes by `_broadcast`"
    assert 'self.accelerator.prepare' in inspect.getsource(DistributedTrainer.before_fit)

def test_free_memory():
    from accelerate import Accelerator
    acc,model = Accelerator(cpu=True),nn.Linear(2, 2)
    acc.prepare(model)
    assert acc._models
    acc.free_memory()
    assert not acc._models, "`free_memory` lets go of the models that were prepared"

# where it is missing

def plain_dls(path):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(92),
                      splitter=GrandparentSplitter(valid_name='val'), batch_tfms=aug_transforms(size=48, min_scale=.75))
    return block.dataloaders(path, bs=8, num_workers=0)

def trained(path, **kwargs):
    set_seed(1)
    learn = small_learner(plain_dls(path))
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, (24,48), **kwargs)
    return weights(learn)

@pytest.fixture(scope='module')
def plain_weights(path): return trained(path, fast=False)

@pytest.fixture
def untried():
    "Fast loading is tried again"
    loaders.fast_works.cache_clear()
    yield
    loaders.fast_works.cache_clear()

def broken(*args, **kwargs): raise AttributeError('it has gone')

def without(module, name): return types.SimpleNamespace(**{k:v for k,v in vars(module).items() if k!=name})

def black(x, box, size, mode): return torch.zeros(3, *size[::-1], dtype=torch.uint8)

changes = dict(
    bomb_check  = lambda m: m.setattr(read, 'Image', without(Image, '_decompression_bomb_check')),
    open_args   = lambda m: m.setattr(PILImage, '_open_args', {}),
    methods     = lambda m: m.setattr(type(Transform(noop).encodes), 'methods', property(broken)),
    other_read  = lambda m: m.setattr(read, '_scaled', {}),
    jpeg_size   = lambda m: m.setattr(read._Jpeg, 'size', property(broken)),
    draft       = lambda m: m.setattr(read._Jpeg, 'draft', broken),
    wrong_crop  = lambda m: m.setattr(read, 'resize_planes', black),
    coefficients = lambda m: m.setattr(augment, 'find_coeffs', broken),
    projection  = lambda m: m.setattr(augment, '_project', lambda mat, size, align: torch.zeros(len(mat), *size, 2)),
)

@pytest.mark.parametrize('change', changes)
def test_fast_loading_switches_itself_off(path, monkeypatch, plain_weights, untried, change):
    "One warning, and training with fastai's own transforms"
    changes[change](monkeypatch)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        got = [trained(path) for _ in range(2)]
    said = [str(o.message) for o in w if 'Fast loading' in str(o.message)]
    assert len(said)==1 and 'images are loaded by fastai alone' in said[0]
    assert same_weights(got[0], plain_weights) and same_weights(got[1], plain_weights)

def test_fast_loading_is_on(path, plain_weights, untried):
    "Else it is another training: the test above can fail"
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert not same_weights(trained(path), plain_weights)

def test_get_dls_without_fast_loading(path, monkeypatch, untried):
    changes['open_args'](monkeypatch)
    with pytest.warns(UserWarning, match='Fast loading is switched off'): dls = get_dls(32, 8, path, num_workers=0)
    assert type(dls.train_ds[0][0]) is PILImage
    assert not any(isinstance(o, augment.AffineOnce) for o in dls.after_batch.fs)

def test_at_size_without_fake_loader(dls, monkeypatch):
    monkeypatch.setattr(dls.train, 'fake_l', types.SimpleNamespace())
    with pytest.raises(RuntimeError, match='cannot be copied .* pass a function as `get_dls=`'): dls.at_size(24)

def test_resume_without_epoch_loop(path, tmp_path, monkeypatch):
    learn = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt): run(learn, checkpoint='a', cbs=StopAt(4))
    monkeypatch.delattr(Learner, '_do_fit')
    again = new_learner(path, 1, folder=tmp_path)
    with pytest.raises(ValueError, match='different loop over epochs, so runs cannot be resumed'):
        run(again, check=False, checkpoint='a', resume=True)
