"What cannot go well is refused before the first batch, with values and a way out, and leaves the learner as it was"
import pytest, shutil
from contextlib import contextmanager
from helpers import *
from fastai_progresize.load.folder import folder_block

def state(learn):
    opt,model = learn.opt,learn.model
    dls,cbs,metrics = ([id(o) for o in os] for os in (learn.dls.loaders, learn.cbs, learn.metrics))
    return dict(
        dls=id(learn.dls), loaders=dls, cbs=cbs, metrics=metrics, loss=id(learn.loss_func), logger=learn.logger,
        opt=id(opt), frozen=getattr(opt, 'frozen_idx', None), lr=learn.lr, attrs=sorted(learn.__dict__),
        model=id(model), grads=[p.requires_grad for p in model.parameters()],
        modes=[m.training for m in model.modules()],
        python=random.getstate(), numpy=np.random.get_state()[1].tolist(), torch=torch.get_rng_state().tolist(),
        rngs=[dl.rng.getstate() for dl in learn.dls.loaders if hasattr(dl, 'rng')])

@contextmanager
def refused(learn, *parts, error=ValueError):
    before,w = state(learn),weights(learn)
    with pytest.raises(error) as e: yield
    for o in parts: assert o in str(e.value)
    assert 'Exception occured' not in str(e.value)          # not from inside a callback
    assert same_weights(w, weights(learn))
    after = state(learn)
    assert {k for k in before if before[k]!=after[k]}==set()

@pytest.fixture
def learn(dls): return small_learner(dls, 2, cbs=Record, lr=3e-3)

class Untrained(Callback):
    def before_batch(self): raise AssertionError('a batch was trained on')

@pytest.fixture(autouse=True)
def untrained(learn): learn.add_cb(Untrained())

unknown_fit = ["fit='fit_flat_cos' is unknown", "'flat_cos', 'single_cycle', 'fine_tune', 'fit_one_cycle'"]
two = dict(n_epoch=4, sizes=(32,48))

@pytest.mark.parametrize('args,parts', [
    (dict(n_epoch=4, sizes=[]), ['sizes is empty: pass at least one size']),
    (dict(n_epoch=[]), ['n_epoch=[]: pass an int']),
    (dict(n_epoch=4, sizes=(0,48)), ['size=0', 'pass a positive int, or (height, width)']),
    (dict(n_epoch=4, sizes=(-32,48)), ['size=-32']),
    (dict(n_epoch=4, sizes=(32.5,48)), ['size=32.5']),
    (dict(n_epoch=4, sizes=('32',48)), ["size='32'"]),
    (dict(n_epoch=4, sizes=((32,32,32),48)), ['size=(32, 32, 32)']),
    (dict(n_epoch=4, sizes=(48,32)), ['sizes=[48, 32] do not grow', '`Stage`s, which may shrink']),
    (dict(n_epoch=4, sizes=(32,32)), ['sizes=[32, 32] do not grow']),
    (dict(n_epoch=2, sizes=(24,32,48)), ['n_epoch=2 is less than the 3 sizes', 'pass at least 3 epochs']),
    (dict(n_epoch=0), ['n_epoch=0: pass an int of at least 1']),
    (dict(n_epoch=-3), ['n_epoch=-3']),
    (dict(n_epoch=2.5), ['n_epoch=2.5']),
    (dict(n_epoch=float('nan')), ['n_epoch=nan']),
    (dict(n_epoch=True), ['n_epoch=True']),
    (dict(n_epoch=(2,0), sizes=(32,48)), ['n_epoch=0']),
    (dict(n_epoch=(2,1,1), sizes=(32,48)), ['n_epoch has 3 values for 2 sizes']),
    (dict(n_epoch=[4,Stage(32, 2)]), ['pass either all `Stage`s']),
    (dict(n_epoch=[Stage(32, 2)], sizes=(32,48)), ['the `Stage`s have their own sizes']),
    (dict(n_epoch=4, bs=0), ['bs=0: pass an int of at least 1']),
    (dict(n_epoch=4, bs=-8), ['bs=-8']),
    (dict(n_epoch=4, bs=float('inf')), ['bs=inf']),
    (dict(two, bs=(8,4,2)), ['bs has 3 values for 2 sizes']),
    (dict(n_epoch=4, bs=25), ['bs=25 at', 'above the 24 images', 'pass bs=24 or less']),
    (dict(n_epoch=4, lr_max=0), ['lr=0: pass a positive, finite number']),
    (dict(n_epoch=4, lr_max=-1e-3), ['lr=-0.001']),
    (dict(n_epoch=4, lr_max=float('nan')), ['lr=nan']),
    (dict(n_epoch=4, lr_max=float('inf')), ['lr=inf']),
    (dict(n_epoch=4, lr_max=slice(-1e-4,1e-3), fit='fit_one_cycle'), ['lr=slice(-0.0001, 0.001, None)']),
    (dict(n_epoch=4, lr_max=slice(1e-4,1e-3), fit='fine_tune'),
     ['`fine_tune` takes one number', "fit='fit_one_cycle'"]),
    (dict(two, lr_max=(1e-3,), fit='fine_tune'), ['lr_max has 1 values for 2 sizes']),
    (dict(two, lr_max=(3e-3,1e-3)), ["fit='fine_tune', as in the book", "fit='fit_one_cycle', or one `lr_max`"]),
    (dict(n_epoch=[Stage(32, 2, lr=1e-3),Stage(48, 2)]), ["lr_max=(0.001,)", "fit='fine_tune', as in the book"]),
    (dict(two, fit='flat_cos', lr_max=(3e-3,1e-3)), ['one schedule over the whole run', 'pass one `lr_max`']),
    (dict(two, fit='flat_cos', div=10.), ["div=10.0: fit='flat_cos' starts at the highest lr"]),
    (dict(two, fit='flat_cos', moms=(.9,.8,.9)), ["moms=(0.9, 0.8, 0.9): fit='flat_cos' does not change momentum"]),
    (dict(n_epoch=4, fit='fit_flat_cos'), unknown_fit),
    (dict(two, fit='single_cycle', lr_max=(3e-3,1e-3)), ['one schedule over the whole run', 'pass one `lr_max`']),
    (dict(n_epoch=[Stage(32, 2, lr=1e-3),Stage(48, 2)], fit='single_cycle'), ['one schedule over the whole run']),
    (dict(n_epoch=4, valid_size='last'), ["valid_size='last': pass 'stage', 'final' or a size in px"]),
    (dict(n_epoch=4, fast='yes'), ["fast='yes': pass True, False, or a dict of arguments of `dls.fast`"]),
    (dict(n_epoch=4, freeze_epochs=-1), ['freeze_epochs=-1']),
    (dict(n_epoch=4, pct_start=1.5), ['pct_start=1.5']),
    (dict(n_epoch=4, div=0), ['div=0']),
    (dict(n_epoch=4, moms=(.9,.8)), ['moms=(0.9, 0.8)']),
    (dict(n_epoch=4, wd=-1.), ['wd=-1.0']),
    (dict(n_epoch=4, get_dls=3), ['get_dls=3: pass a function']),
    (dict(n_epoch=4, wd='a'), ["wd='a'"]),
    (dict(n_epoch=4, checkpoint=3), ['checkpoint=3: pass a name']),
    (dict(n_epoch=4, resume=True), ['resume=True: pass the `checkpoint`']),
])
def test_arguments(learn, args, parts):
    with refused(learn, *parts): learn.fit_progressive(**args)

def test_single_cycle_stage():
    with pytest.raises(ValueError, match='not in a `Stage`'): Stage(32, 2, fit='single_cycle')

def test_stages_may_shrink(dls):
    learn = small_learner(dls)
    learn.fit_progressive([Stage(48, 1), Stage(32, 1, fit='fit_one_cycle')])
    assert list(learn.stage_history['size'])==[48,32]

def _raise(size, bs): raise KeyError('no such file list')

@pytest.mark.parametrize('get_dls,parts', [
    (_raise, ['get_dls failed for size=32, bs=8', 'no such file list']),
    (lambda size,bs: None, ['get_dls returned None for size=32, bs=8', 'make it return `DataLoaders`']),
    (lambda: None, ['get_dls failed for size=32']),
])
def test_get_dls(learn, get_dls, parts):
    with refused(learn, *parts): learn.fit_progressive(**two, get_dls=get_dls)

def test_ignores_size(learn, path):
    with refused(learn, 'The images at 32 px are 48x48 px', 'let it use its `size`'):
        learn.fit_progressive(**two, get_dls=lambda size,bs: get_dls(48, bs, path, num_workers=0))

def book_dls(path, splitter=None):
    "fastbook's function, chapter 7"
    def get_dls(bs, size):
        dblock = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                           splitter=splitter, item_tfms=Resize(460),
                           batch_tfms=[*aug_transforms(size=size, min_scale=0.75),
                                       Normalize.from_stats(*imagenet_stats)])
        return dblock.dataloaders(path, bs=bs, num_workers=0)
    return get_dls

def test_leak_at_one_size(path):
    "Two stages of the same size and bs call `get_dls` twice, and so does what is checked first"
    dls = book_dls(path)
    learn = small_learner(dls(bs=8, size=32))
    with refused(learn, 'Leak: '): learn.fit_progressive([Stage(32, 1), Stage(32, 1)], bs=8, get_dls=dls)

def test_leak(path):
    "The book's `get_dls` is refused with the leak counted; with a seed it passes"
    dls = book_dls(path)(bs=8, size=48)
    learn = small_learner(dls)
    says = ['Leak: ', 'images are validated on at one stage and trained on at another', '% of all validation images',
            'RandomSplitter(seed=42)']
    with refused(learn, *says): learn.fit_progressive(**two, get_dls=book_dls(path))
    with pytest.raises(ValueError) as e: learn.fit_progressive(**two, get_dls=book_dls(path))
    n = int(str(e.value).split()[1])
    with same_random():                      # the splits that the check has drawn, drawn again
        a,b = (book_dls(path)(bs=8, size=s) for s in (32,48))
    trained = set(a.train.items) | set(b.train.items)
    assert n==len((set(a.valid.items)|set(b.valid.items)) & trained) > 0
    seeded = book_dls(path, RandomSplitter(seed=42))
    learn = small_learner(seeded(bs=8, size=48))
    learn.fit_progressive(2, sizes=(32,48), get_dls=seeded)
    assert len(learn.stage_history)==2

def test_leak_of_tables_and_tensors(path, learn):
    "Items that are rows, and items that are tensors"
    df = pd.DataFrame([(str(o.relative_to(path)), o.parent.name) for o in get_image_files(path)])
    def from_df(size, bs, seed=None):
        return ImageDataLoaders.from_df(df, path, item_tfms=Resize(size), bs=bs, num_workers=0, seed=seed)
    a = small_learner(from_df(48, 8))
    with refused(a, 'Leak: '): a.fit_progressive(**two, get_dls=from_df)
    gens = [torch.Generator().manual_seed(i) for i in range(20)]
    xs = [torch.randint(0, 255, (48,48,3), dtype=torch.uint8, generator=g) for g in gens]
    def from_tensors(size, bs):
        images = TransformBlock(type_tfms=lambda o: PILImage.create(o.numpy()), batch_tfms=IntToFloatTensor)
        block = DataBlock((images,CategoryBlock), get_y=lambda o: int(o[0,0,0])%2, item_tfms=Resize(size))
        return block.dataloaders(xs, bs=bs, num_workers=0)
    b = small_learner(from_tensors(48, 8))
    with refused(b, 'Leak: '): b.fit_progressive(**two, get_dls=from_tensors)

def test_leak_at_the_switch(path):
    "A split that only differs when it is used for good is found there, and the learner gets its own data back"
    n = 0
    def tricky(size, bs):
        nonlocal n
        n += 1
        return book_dls(path, RandomSplitter(seed=n if n>3 else 0))(bs=bs, size=size)
    learn = small_learner(book_dls(path, RandomSplitter(seed=0))(bs=8, size=48))
    own = learn.dls
    with pytest.raises(ValueError, match='Leak: '): learn.fit_progressive(3, sizes=(24,32,48), get_dls=tricky)
    assert learn.dls is own and len(learn.stage_history)==1

def test_vocab(learn, path):
    def other(size, bs):
        block = DataBlock((ImageBlock, CategoryBlock(vocab=list('JIHGFEDCBA'), sort=False)), get_items=get_image_files,
                          get_y=parent_label, splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(size),
                          batch_tfms=Normalize.from_stats(*imagenet_stats))
        return block.dataloaders(path, bs=bs, num_workers=0)
    with refused(learn, 'The vocab at 32 px', "'J', 'I'", "'A', 'B'", 'CategoryBlock(vocab=learn.dls.vocab)'):
        learn.fit_progressive(**two, get_dls=other)

def test_normalize(learn, path):
    kw = dict(path=path, num_workers=0)
    with refused(learn, 'Normalize is missing in train at 32 px', 'Normalize.from_stats'):
        learn.fit_progressive(**two, get_dls=partial(get_dls, stats=None, **kw))
    with refused(learn, 'different statistics'):
        learn.fit_progressive(**two, get_dls=partial(get_dls, stats=([0.]*3,[1.]*3), **kw))

def test_lost_normalize_of_vision_learner(path):
    "It is added to the `dls` that `vision_learner` is given, and to no others"
    kw = dict(path=path, num_workers=0, stats=None)
    dls = get_dls(48, 8, **kw)
    norm = Normalize.from_stats(*imagenet_stats)
    dls.add_tfms([norm], 'after_batch')          # as `vision_learner` does it, without the weights
    learn = small_learner(dls)
    with refused(learn, '`vision_learner` adds it only'): learn.fit_progressive(**two, get_dls=partial(get_dls, **kw))
    learn.fit_progressive(2, sizes=(32,48))
    assert any(isinstance(o, Normalize) for o in learn.dls.train.after_batch)

def test_types(learn, path):
    def grey(size, bs):
        return ImageDataLoaders.from_folder(path, valid='val', img_cls=PILImageBW, item_tfms=Resize(size), bs=bs,
                                            batch_tfms=Normalize.from_stats(*imagenet_stats), num_workers=0)
    with refused(learn, 'A batch of train at 32 px has the types', 'TensorImageBW', 'make both from the same blocks'):
        learn.fit_progressive(**two, get_dls=grey)

def test_model_of_fixed_size(dls):
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4*24*24, 10))
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat())
    learn.add_cb(Untrained())
    says = 'The model or its loss fails on images of 32x32 px'
    with refused(learn, says, 'pass `sizes` that it can take', 'AdaptiveAvgPool2d'): learn.fit_progressive(**two)

def test_no_images():
    x = torch.randn(20, 5)
    ds = Datasets(range(20), tfms=[[lambda i: x[i]],[lambda i: x[i].sum()]])
    dls = DataLoaders(*[TfmdDL(ds, bs=4, num_workers=0)]*2)
    learn = Learner(dls, nn.Linear(5, 1), loss_func=MSELossFlat())
    says = 'needs images: the first input of this Learner is a Tensor of shape'
    with pytest.raises(ValueError, match=says): learn.fit_progressive(4)
    with pytest.raises(ValueError, match='needs images'): learn.fit_progressive(**two)

def test_cannot_resize(path):
    dls = ImageDataLoaders.from_folder(path, valid='val', item_tfms=ToTensor, bs=1, num_workers=0)
    learn = small_learner(dls)
    with refused(learn, 'No transform of these DataLoaders resizes images', 'pass a function as `get_dls=`'):
        learn.fit_progressive(**two)

def test_loader_of_another_kind(path, dls):
    "A loader of torch for validation only"
    valid = torch.utils.data.DataLoader(list(dls.valid_ds), batch_size=8)
    learn = small_learner(DataLoaders(dls.train, valid))
    with refused(learn, 'One of these DataLoaders is a torch.utils.data', 'pass a function as `get_dls=`'):
        learn.fit_progressive(**two)

@pytest.fixture
def copy_path(path, tmp_path): return Path(shutil.copytree(path, tmp_path/'copy'))

@pytest.mark.parametrize('spoil,reason', [
    (lambda f: f.write_bytes(f.read_bytes()[:len(f.read_bytes())//2]), 'truncated'),
    (lambda f: f.write_text('<html>404 Not Found</html>'), 'cannot identify image file'),
    (lambda f: f.write_bytes(b''), 'cannot identify image file'),
])
def test_unreadable(copy_path, spoil, reason):
    learn = small_learner(get_dls(48, 8, copy_path, num_workers=0))
    f = get_image_files(copy_path/'train').sorted()[-1]
    spoil(f)
    with refused(learn, str(f), 'cannot be read as an image', reason, 'verify_images'): learn.fit_progressive(**two)

@pytest.mark.parametrize('n_workers', [0,2])
def test_unreadable_in_its_middle(copy_path, n_workers):
    "What only decoding finds is named when training meets it"
    f = copy_path/'train'/'J'/'zz.png'
    get_dls(48, 4, copy_path, num_workers=0).train_ds[0][0].save(f)
    data = bytearray(f.read_bytes())
    for i in range(len(data)//2, len(data)//2+500): data[i] ^= 255
    f.write_bytes(data)
    learn = small_learner(get_dls(48, 4, copy_path, num_workers=n_workers))
    own = learn.dls
    with pytest.raises(ValueError, match=f'{f.name} cannot be read as an image'):
        for _ in range(2): learn.fit_progressive(**two)
    assert learn.dls is own

def test_folders(tmp_path, path):
    with pytest.raises(ValueError, match='is not a folder'): get_dls(32, path=tmp_path/'nothing')
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='There are no images in'): get_dls(32, path=tmp_path/'empty')
    shutil.copytree(path/'train'/'A', tmp_path/'one'/'A')
    with pytest.raises(ValueError, match="are of one class, 'A'"): get_dls(32, path=tmp_path/'one')
    with pytest.raises(ValueError, match='presize=20 is below size=32'): get_dls(32, path=path, presize=20)

def test_random_split_is_the_same(path):
    "A folder without `train` is split alike at each call, and the random state is left alone"
    state = torch.get_rng_state()
    folder_block(path/'train').splitter(get_image_files(path))
    assert torch.equal(state, torch.get_rng_state())
    x,y = (get_dls(s, 8, path/'train', num_workers=0) for s in (32,48))
    assert x.valid.items==y.valid.items and len(x.valid.items)==4
    assert get_dls(32, 8, path/'train', num_workers=0, seed=1).valid.items!=x.valid.items

def test_check_can_be_left_out(path):
    "`check=False` trains what the checks refuse"
    set_seed(1)     # splits that leave each class something to train with
    learn = small_learner(book_dls(path)(bs=8, size=48))
    learn.fit_progressive(2, sizes=(32,48), get_dls=book_dls(path), check=False)
    assert len(learn.stage_history)==2
