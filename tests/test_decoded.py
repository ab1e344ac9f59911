"Decoded copies: the images that are decoded otherwise, bit for bit where nothing is interpolated; never a wrong one"
import errno, gc, os, pickle, random, shutil, signal, subprocess, threading, time
from copy import deepcopy
import pytest
from hypothesis import example, given, settings, strategies as st
from helpers import *
from test_loading import arr, places, resizes, same_place
from fastai.data import load
from fastai.distributed import DistributedDL
from fastai_progresize.data import copy_dl
from fastai_progresize.load import pixels as module
from fastai_progresize.load.augment import Presize
from fastai_progresize.load.batches import CropItems, keeps_pixels
from fastai_progresize.load.pixels import Pixels, cover_size, load_image_pixels
from fastai_progresize.load.read import ReadImage, ScaledImage, ScaledImageBW, ScaledToTensor
from fastai_progresize.checks.trial import Trial, try_stage

def draw(fn, w, h, seed, mode='RGB'):
    "A picture whose neighbours are alike, as in a photograph"
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (5,7,3), dtype=np.uint8)
    Image.fromarray(small).resize((w,h), Image.BICUBIC).convert(mode).save(fn)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Images of several shapes and formats, in two classes, with a split"
    d = tmp_path_factory.mktemp('decoded')
    sizes = [(90,64),(64,100),(64,64),(200,150),(150,300),(40,30)]
    for part,n in (('train',24),('val',12)):
        for i in range(n):
            (d/part/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
            draw(d/part/'ab'[i%2]/f"{i}.{'png' if i%5==0 else 'jpg'}", *sizes[i%6], i + 100*(part=='val'))
    return d

@pytest.fixture(scope='module')
def exact(tmp_path_factory):
    "Images whose shorter side is the presize: nothing is interpolated"
    d = tmp_path_factory.mktemp('exact')
    for part,n in (('train',20),('val',9)):
        for i in range(n):
            (d/part/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
            draw(d/part/'ab'[i%2]/f'{i}.png', *[(48,48),(60,48),(48,97)][i%3], i + 100*(part=='val'))
    return d

def data(path, **kwargs): return get_dls(32, 4, path, num_workers=0, presize=48, **kwargs)

def batches(dl, seed=1):
    set_seed(seed)
    dl.rng = random.Random(seed)
    return list(dl)

def same_batches(a, b):
    assert len(a)==len(b)
    for x,y in zip(a, b):
        assert len(x)==len(y) and all(type(o) is type(p) for o,p in zip(x, y))
        assert all(torch.equal(o, p) for o,p in zip(x, y))

# the same images

@pytest.mark.parametrize('workers', (0,2))
def test_equal_batches(exact, tmp_path, workers):
    "Where nothing is interpolated, to the bit: while they are decoded, when they are there, in training and validation"
    a,b = data(exact),data(exact, cache=tmp_path, decoded=True)
    for t in (a,b):
        for dl in t.loaders:
            dl.after_item.presize.keep = 1.       # copies have one size
    for dl in a.loaders+b.loaders: dl.fake_l.num_workers = workers
    assert not (b.train.crops.pixels.there!=0).any()
    for seed in (1,2,3):
        for x,y in zip(a.loaders, b.loaders): same_batches(batches(x, seed), batches(y, seed))
    assert (b.train.crops.pixels.there!=0).all()

@pytest.mark.parametrize('f', ('a.jpg','a.png'))
@pytest.mark.parametrize('split_idx', (0,1))
@pytest.mark.parametrize('name', resizes)
def test_same_place_from_pixels(places, tmp_path, name, split_idx, f):
    "Each of fastai's resizes shows what it shows without them, to half a pixel, from them or from the file"
    pixels = Pixels(tmp_path, 120).reserve([places/f])
    a,b = ScaledImage.create(places/f),ScaledImage.create(places/f, cache=pixels)
    assert a.size==b.size==(1000,700)
    same_place(name, a, b, split_idx)

@example(w=16, h=17, size=(49,49), seed=0, split_idx=0)     # 16/49*49 is below 16
@settings(deadline=None, max_examples=150)
@given(w=st.integers(16,400), h=st.integers(16,400), size=st.tuples(st.integers(16,120), st.integers(16,120)),
       seed=st.integers(0,99), split_idx=st.integers(0,1))
def test_batches_are_what_items_are(tmp_path_factory, w, h, size, seed, split_idx):
    "A slice that a batch takes is the image that `Resize` gets, for any shape"
    fn = tmp_path_factory.getbasetemp()/f'{w}x{h}.png'
    if not fn.exists(): draw(fn, w, h, seed)
    d = tempfile.mkdtemp()
    pixels,tfm = Pixels(Path(d), size).reserve([fn]),Resize(size, resamples=(Image.BICUBIC,0))
    random.seed(seed)
    want = ScaledToTensor()(tfm(ScaledImage.create(fn, cache=pixels), split_idx=split_idx))
    items = CropItems(Datasets([fn], [[ReadImage(cache=pixels)],[noop]]), pixels)
    random.seed(seed)
    rngs = itertools.repeat(random)
    got, = items.batch([items.item(0, tfm, tfm.size, split_idx, rngs)[:1]], tfm.size, noop)[0]
    shutil.rmtree(d)
    assert want.shape[1:]==size and type(got) is type(want) and torch.equal(got, want)

def test_like_without(folder, tmp_path):
    "The same crops of other images, up to the filter"
    a,b = data(folder),data(folder, cache=tmp_path, decoded=True)
    for x,y in zip(a.loaders, b.loaders):
        y.after_item.presize.keep = x.after_item.presize.keep = 1.
        for (p,_),(q,_) in zip(batches(x), batches(y)): assert (p-q).abs().mean()<.05

def test_grey_and_masks(folder, tmp_path):
    "Grey images are kept as they are; with a mask items are made one by one, of pixels that are kept"
    block = DataBlock((ImageBlock(PILImageBW),CategoryBlock), get_items=get_image_files, get_y=parent_label)
    dls = get_dls(32, 4, folder, num_workers=0, dblock=block, stats=None, cache=tmp_path, decoded=True)
    assert dls.train.crops.pixels.mode=='L' and dls.one_batch()[0].shape[1]==1
    block = DataBlock((ImageBlock,MaskBlock), get_items=get_image_files, get_y=noop, item_tfms=Resize(48))
    dls = block.dataloaders(folder, bs=4, num_workers=0).fast(cache=tmp_path/'b', decoded=True)
    assert not keeps_pixels(dls.train)
    x,y = dls.one_batch()
    there = dls.train_ds.tls[0].tfms.fs[-1].cache.there
    assert x.shape[2:]==y.shape[1:] and (there!=0).sum()==4

# what fastai does with DataLoaders

@pytest.fixture
def kept(folder, tmp_path): return data(folder, cache=tmp_path, decoded=True)

def test_other_loaders(kept, folder):
    "Weights, parts of an epoch, other items, other transforms and pickles"
    same_batches(batches(kept.valid), batches(deepcopy(kept).valid))
    same_batches(batches(kept.valid), batches(pickle.loads(pickle.dumps(kept.valid))))
    plain = kept.valid.new()
    assert not keeps_pixels(plain) and 'create_batches' not in vars(plain)
    same_batches(batches(kept.valid), batches(plain))
    some = kept.test_dl(get_image_files(folder/'val')[:3], with_labels=True)
    assert len(list(some))==1
    kept.show_batch(max_n=2, unique=True)
    kept.valid.show_batch(max_n=2)
    plt.close('all')
    half = copy_dl(kept.train, get_idxs=lambda: [0,1,2,3,4])
    assert [len(x) for x,_ in half]==[4] and half.create_batches.__self__ is half
    other = copy_dl(kept.train, after_item=Pipeline([Resize(48), FlipItem(1.), ScaledToTensor()]))
    assert batches(other)[0][0].shape==(4,3,32,32)

def test_weighted_and_partial(folder, tmp_path):
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(48),
                      splitter=GrandparentSplitter(valid_name='val'))
    ds = block.datasets(folder)
    after = dict(after_item=[Resize(48), ToTensor()], after_batch=[IntToFloatTensor()])
    weighted = ds.weighted_dataloaders(np.arange(24), bs=4, num_workers=0, **after)
    part = ds.partial_dataloaders(partial_n=8, bs=4, num_workers=0, **after)
    for dls,n in ((weighted,6),(part,2)):
        dls = dls.fast(cache=tmp_path, decoded=True)
        set_seed(1)
        assert keeps_pixels(dls.train) and len(list(dls.train))==n

def test_skipped_items(folder, tmp_path):
    "An item whose label raises `SkipItemException` is left out of the batch"
    def label(o):
        if o.stem in ('4','8'): raise SkipItemException
        return parent_label(o)
    block = DataBlock((ImageBlock,CategoryBlock(['a','b'])), get_items=get_image_files, item_tfms=Resize(48),
                      get_y=label, splitter=IndexSplitter([1,3]))
    dls = block.dataloaders(folder/'train', bs=32, num_workers=0)
    kept = dls.fast(cache=tmp_path, decoded=True)
    assert keeps_pixels(kept.train) and len(kept.train.shuffle_fn([0,1]))==2
    kept.train.drop_last = dls.train.drop_last = False
    assert len(kept.one_batch()[0])==len(dls.one_batch()[0])==20

def test_own_items(folder, tmp_path):
    "A loader of one's own makes its items itself"
    class Own(TfmdDL):
        def create_item(self, s): return super().create_item(0)
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(48))
    dls = block.dataloaders(folder, bs=4, num_workers=0, dl_type=Own).fast(cache=tmp_path, decoded=True)
    assert not keeps_pixels(dls.train) and len(set(map(str, dls.one_batch()[1])))==1

def test_at_size_of_kept(kept, tmp_path):
    "Loaders that are derived from them make their batches as quickly"
    small = kept.at_size(16).fast()
    assert all(map(keeps_pixels, small.loaders)) and small.train.crops.pixels.size!=kept.train.crops.pixels.size
    same_batches(batches(small.valid), batches(small.valid.new()))

@pytest.mark.parametrize('workers', (1,2,3))
def test_as_workers_draw(kept, workers):
    "The batches that a thread makes are those of as many worker processes, which make them item by item"
    for dl in kept.loaders:
        dl.fake_l.num_workers = workers
        other = dl.new()
        assert 'create_batches' in vars(dl) and 'create_batches' not in vars(other)
        for seed in (1,2): same_batches(batches(dl, seed), batches(other, seed))

def made_ahead(dl, monkeypatch):
    "How many batches there are, in a while, once the first has been taken"
    n,made,make = 0,threading.Semaphore(0),CropItems.batch
    def batch(*args, **kwargs):
        made.release()
        return make(*args, **kwargs)
    with monkeypatch.context() as m:
        m.setattr(CropItems, 'batch', batch)
        it = iter(dl)
        next(it)
        while made.acquire(timeout=.5): n += 1
    return n

def own_label(f): return parent_label(f)

def test_ahead(folder, tmp_path, monkeypatch):
    "A thread is a batch ahead, but not without workers, nor where it would run the user's code"
    def dls(n=2, get_y=parent_label):
        block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=get_y, item_tfms=Resize(48),
                          splitter=GrandparentSplitter(valid_name='val'))
        return block.dataloaders(folder, bs=4, num_workers=n).fast(cache=tmp_path, decoded=True)
    own = n_running()
    assert made_ahead(dls().train, monkeypatch)==2
    assert made_ahead(dls(0).train, monkeypatch)==1
    assert made_ahead(dls(get_y=own_label).train, monkeypatch)==1
    some = dls().train
    del some.crops.pixels.rows[str(some.items[0])]
    assert made_ahead(some, monkeypatch)==1
    assert is_back_to(own), threading.enumerate()

def test_pinned(kept, monkeypatch):
    "Batches for a GPU are in memory that it reads itself"
    seen = []
    def pin_memory(x):
        seen.append(x.shape)
        return x
    monkeypatch.setattr(Tensor, 'pin_memory', pin_memory)
    dl = kept.train
    dl.fake_l.num_workers = 1
    for device in ('cpu','cuda:0'):
        dl.before_iter()
        dl._device = torch.device(device)
        assert len(list(dl.create_batches(range(8))))==2
    assert seen==[(4,3,48,48)]*2

def n_running(): return threading.active_count()+len(torch.multiprocessing.active_children())

def is_back_to(n):
    "Are as many running as before? A queue of torch's ends its thread a moment after it is closed"
    for _ in range(50):
        gc.collect()
        if n_running()==n: return True
        time.sleep(.1)

def no_workers(*args): raise AssertionError('a worker process is started')

def test_no_workers(folder, tmp_path, monkeypatch):
    "Once the copies are there, no process is started, and `num_workers` stays what it was"
    dls = get_dls(32, 4, folder, num_workers=2, presize=48, cache=tmp_path, decoded=True)
    for dl in dls.loaders: batches(dl)
    monkeypatch.setattr(load, '_loaders', (no_workers,load._loaders[1]))
    monkeypatch.setattr(torch.utils.data.dataloader, '_MultiProcessingDataLoaderIter', no_workers)
    for _ in range(2): assert len(batches(dls.train))==6 and dls.train.fake_l.num_workers==2
    assert dls.train.new().fake_l.num_workers==2
    dls.train.after_item.add(FlipItem(1.))
    with pytest.raises(AssertionError, match='a worker'): next(iter(dls.train))

def test_nothing_is_left(folder, tmp_path, monkeypatch):
    "After a whole epoch, a part of one, a file that cannot be read, an interrupt, and two loaders at once"
    own = n_running()
    def dls(): return get_dls(32, 4, folder, num_workers=2, presize=48, cache=tempfile.mkdtemp(dir=tmp_path), decoded=True)
    batches(dls().train)
    next(iter(dls().train))
    for _ in zip(*dls().loaders): pass
    with pytest.raises(KeyboardInterrupt):
        for _ in dls().train: raise KeyboardInterrupt
    for cls,name,error in ((Pixels,'fill',OSError),(CropItems,'batch',KeyboardInterrupt)):
        def fails(*args, **kwargs): raise error('it fails')
        with monkeypatch.context() as m:
            d = dls()
            if name=='batch': batches(d.train)      # torch takes 5 s to end each worker after an error
            m.setattr(cls, name, fails)
            with pytest.raises(error): batches(d.train)
    assert is_back_to(own), threading.enumerate()

def held():
    "What a process holds: threads and other processes, open files, what is mapped of shared memory, and MiB"
    proc = Path('/proc/self')
    shared = [o for o in (proc/'maps').read_text().splitlines() if '/dev/shm' in o or '/torch_' in o]
    return n_running(),len(os.listdir(proc/'fd')),len(shared),int(re.search(r'VmRSS:\s+(\d+)', (proc/'status').read_text())[1])/1024

@pytest.mark.long
@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='no /proc')
def test_sixty_fits(folder, tmp_path):
    "From files, JPEG copies and decoded copies in turn: the last fits hold no more than the first ones"
    seen = []
    for i in range(60):
        kwargs = [{}, dict(cache=tmp_path/'jpeg'), dict(cache=tmp_path/'pixels', decoded=True)][i%3]
        learn = small_learner(get_dls(32, 4, folder, num_workers=1, presize=48, **kwargs), model=partial(small_model, 2))
        with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, sizes=(24,32))
        del learn
        gc.collect()
        seen.append(held())
    first,last = seen[6:12],seen[-6:]
    assert [max(o) for o in zip(*last)][:3]==[max(o) for o in zip(*first)][:3]
    assert max(o[3] for o in last)-max(o[3] for o in first)<64

def test_labels_that_change(folder, tmp_path):
    "Those of fastai's functions are made once, those of others for each batch"
    seen = []
    def label(o):
        seen.append(o)
        return parent_label(o)
    for f,n in ((parent_label,0),(label,48)):
        block = DataBlock((ImageBlock,CategoryBlock(['a','b'])), get_items=get_image_files, get_y=f, item_tfms=Resize(48),
                          splitter=GrandparentSplitter(valid_name='val'))
        dls = block.dataloaders(folder, bs=4, num_workers=0).fast(cache=tmp_path, decoded=True)
        seen.clear()
        a,b = batches(dls.train),batches(dls.train)
        assert len(seen)==n
        same_batches(a, b)

def test_validate_predict_tta(kept):
    learn = small_learner(kept, model=partial(small_model, 2))
    with learn.no_bar(), learn.no_logging():
        loss = learn.validate()[0]
        preds,targs = learn.get_preds()
        assert abs(loss-learn.loss_func(preds.log(), targs).item())<10
        assert learn.tta(n=2)[0].shape==preds.shape
        assert learn.predict(kept.valid_ds.items[0])[2].shape==(2,)

def test_several_processes(kept):
    "A rank takes its batches from the same file"
    a = kept.train
    b = DistributedDL(a, rank=0, world_size=2, device='cpu')
    a.before_iter()
    x,y = (list(o.create_batches([3,1,2,0])) for o in (a,b))
    assert len(x)==len(y)==1 and x[0][0].shape==y[0][0].shape

def test_processes_with_workers(folder, tmp_path, monkeypatch):
    "A rank has workers, which decode and take the crops; they are still there in the next epoch"
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    dls = get_dls(32, 4, folder, num_workers=1, presize=48, cache=tmp_path, decoded=True)
    rank = DistributedDL(dls.train, rank=0, world_size=2, device='cpu')
    for _ in range(2):
        assert [len(x) for x,_ in rank]==[4,4,4]
        assert dls.train.fake_l.num_workers==1
    assert sum(dls.train.crops.pixels.there!=0)>=12

def test_exported_without(kept, tmp_path):
    learn = small_learner(kept, model=partial(small_model, 2))
    learn.export(tmp_path/'a.pkl')
    shutil.rmtree(kept.train.crops.pixels.folder)
    loaded = load_learner(tmp_path/'a.pkl')
    with loaded.no_bar(): loaded.predict(kept.valid_ds.items[0])
    assert 'progresize' not in str([type(o) for o in loaded.dls.after_item.fs])

# a run

def test_run(folder, tmp_path, capsys):
    "Every stage has its own pixels, claimed and said before the first batch; `learn.dls` decide, or `fast=`"
    learn = small_learner(get_dls(32, 4, folder, num_workers=0, cache=tmp_path, decoded=True))
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, sizes=(16,32))
    said = capsys.readouterr().out
    assert said.count('Decoded copies of 36 images')==2 and 'MiB are free in' in said
    assert len(list((tmp_path/'decoded').glob('*.pixels')))==2
    learn = small_learner(get_dls(32, 4, folder, num_workers=0))
    with learn.no_bar(), learn.no_logging():
        learn.fit_progressive(2, sizes=(16,32), fast=dict(cache=tmp_path/'b', decoded=True))
    assert len(list((tmp_path/'b'/'decoded').glob('*.pixels')))==2
    assert not keeps_pixels(learn.dls.train)

@pytest.mark.parametrize('workers', (0,1))
def test_resumed_while_filling(folder, tmp_path, workers):
    "Stopped while a stage's pixels are decoded: bit-identical to an uninterrupted run"
    def learner(name):
        set_seed(1)
        return small_learner(get_dls(32, 4, folder, num_workers=workers, cache=tmp_path/name, decoded=True))
    def run(learn, **kwargs):
        set_seed(2)
        with learn.no_bar(), learn.no_logging(): learn.fit_progressive(3, sizes=(16,32), **kwargs)
    whole = learner('a')
    run(whole)
    stopped,file = learner('b'),tmp_path/'run'
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.learn.train_iter>=8: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run(stopped, checkpoint=file, cbs=Stop())
    again = learner('b')
    run(again, checkpoint=file, resume=True)
    assert same_weights(weights(again), weights(whole))
    other = small_learner(get_dls(32, 4, folder, num_workers=0, cache=tmp_path))
    with pytest.raises(ValueError, match='copies was pixels, is JPEG'): run(other, checkpoint=file, resume=True)

def test_preflight_counts_the_first_epoch(kept):
    res = try_stage(Trial(small_learner(kept)), kept, seconds=.2)
    assert res.first>=res.epoch>0
    assert (kept.train.crops.pixels.there!=0).any()

# what is on the disk

def flip(file, at, bits=8):
    "Change a byte of `file`"
    with open(file, 'r+b') as f:
        f.seek(at)
        b = f.read(1)[0]
        f.seek(at)
        f.write(bytes([b^bits]))

def truth(fn, pixels): return load_image_pixels(fn, cover_size(Image.open(fn).size, pixels.size))

def check_true(pixels, files):
    "What is said to be there is right"
    for f in files:
        i = pixels.rows[str(f)]
        if pixels.there[i]: assert torch.equal(pixels.planes(i), truth(f, pixels)), f

def test_sources(folder, tmp_path, capsys):
    "A changed or new source is seen, others stay; a removed one is an error that names it"
    d = tmp_path/'photos'
    shutil.copytree(folder/'train'/'a', d)
    files = get_image_files(d).sorted()
    presize_images(d, 40, tmp_path/'c', progress=False, decoded=True)
    pixels = Pixels(tmp_path/'c'/'decoded', 40).reserve(files)
    assert pixels.there.all() and capsys.readouterr().out.count('Decoded copies')==1
    draw(files[0], 77, 50, 99)
    with pytest.raises(ValueError, match='has changed since'):
        flip(pixels.file, pixels.places[pixels.rows[str(files[0])]][0])
        pixels.fill(files[0])
    draw(d/'new.png', 50, 70, 98)
    again = Pixels(tmp_path/'c'/'decoded', 40).reserve(get_image_files(d))
    assert '2 images' in capsys.readouterr().out
    assert [f for f in get_image_files(d).sorted() if not again.there[again.rows[str(f)]]]==[files[0],d/'new.png']
    check_true(again, files[1:])
    again.fill(files[0])
    check_true(again, files)
    files[1].unlink()
    with pytest.raises(ValueError, match=files[1].name): again.reserve(files)
    (d/'bad.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match='bad.jpg cannot be read'): again.reserve([d/'bad.jpg'])

def test_relative_paths_and_links(folder, tmp_path, monkeypatch):
    "One copy of a file, however it is named"
    f = get_image_files(folder/'train').sorted()[0]
    monkeypatch.chdir(f.parent)
    pixels = Pixels(tmp_path, 40).reserve([f, f.name])
    assert len(pixels.entries)==1 and set(pixels.rows.values())=={0}

def test_damaged(folder, tmp_path):
    "Wrong bytes of a run that was cut off, half an entry, one file without the other: decoded again"
    files = get_image_files(folder/'train').sorted()
    presize_images(files, 40, tmp_path, progress=False, decoded=True)
    pixels = Pixels(tmp_path/'decoded', 40).reserve(files)
    flip(pixels.file, pixels.places[1,0]+5)
    pixels = Pixels(tmp_path/'decoded', 40).reserve(files)
    made,real = [],pixels._decode
    pixels._decode = lambda i, fn: made.append(i) or real(i, fn)
    for f in files: pixels.fill(f)
    assert made==[1]
    check_true(pixels, files)
    with open(pixels.index, 'ab') as f: f.write(b'half')
    draw(tmp_path/'new.png', 60, 50, 7)
    pixels = Pixels(tmp_path/'decoded', 40).reserve([*files,tmp_path/'new.png'])
    assert len(pixels.entries)==len(files)+1
    for f in (*files,tmp_path/'new.png'): pixels.fill(f)
    check_true(pixels, [*files,tmp_path/'new.png'])
    os.truncate(pixels.file, 1000)
    pixels = Pixels(tmp_path/'decoded', 40).reserve(files)
    assert not pixels.there.any()
    for f in files: pixels.fill(f)
    check_true(pixels, files)

def forked(f):
    "The id of a process that calls `f`"
    if pid := os.fork(): return pid
    try: f()
    finally: os._exit(0)

def test_kills(folder, tmp_path):
    "Killed at 20 moments while pixels are written: nothing wrong is read, and the next run finishes"
    files = (get_image_files(folder/'train')+get_image_files(folder/'val')).sorted()
    def filling():
        pixels = Pixels(tmp_path, 40).reserve(files)
        for f in files: pixels.fill(f)
    rng,n_there = random.Random(1),[]
    for _ in range(20):
        shutil.rmtree(tmp_path) if rng.random()<.5 else None
        pid = forked(filling)
        time.sleep(rng.uniform(0, .05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        pixels = Pixels(tmp_path, 40).reserve(files)
        n_there.append((pixels.there!=0).sum())
        check_true(pixels, files)
    assert any(0<n<len(files) for n in n_there), n_there      # some were killed during it
    filling()
    pixels = Pixels(tmp_path, 40).reserve(files)
    assert pixels.there.all()
    check_true(pixels, files)

def test_processes_at_once(folder, tmp_path):
    "Four processes that begin with some files each, and add others: one place for each image, none torn"
    files = (get_image_files(folder/'train')+get_image_files(folder/'val')).sorted()
    def filling(seed):
        mine = random.Random(seed).sample(list(files), 25)
        for part in (mine[:5],mine):
            pixels = Pixels(tmp_path, 40).reserve(part)
            for f in part:
                pixels.fill(f)
                check_true(pixels, [f])
    for pid in [forked(partial(filling, i)) for i in range(4)]: assert os.waitpid(pid, 0)[1]==0
    pixels = Pixels(tmp_path, 40).reserve(files)
    assert len(set(pixels.entries['key']))==len(pixels.entries)==len(files)
    spans = sorted((at,at+3*w*h) for at,w,h,*_ in pixels.places.tolist())
    assert all(a[1]<=b[0] for a,b in zip(spans, spans[1:]))
    check_true(pixels, files)

@pytest.fixture
def small_disk(tmp_path):
    "A disk of one MiB"
    d = tmp_path/'disk'
    d.mkdir()
    if subprocess.run(['mount','-t','tmpfs','-o','size=1M','tmpfs',d], capture_output=True).returncode:
        pytest.skip('no disk can be mounted here')
    yield d
    subprocess.run(['umount','-l',d])

def test_full_disk(folder, small_disk):
    "What does not fit is refused before anything is decoded; with room again the next run finishes"
    files = get_image_files(folder/'train').sorted()
    with pytest.raises(ValueError, match=r'take 4\.\d MiB, and \d\.\d MiB are free in .*: free some space'):
        presize_images(files, 200, small_disk, progress=False, decoded=True)
    learn = small_learner(get_dls(32, 4, folder, num_workers=0))
    with pytest.raises(ValueError, match='free some space'), learn.no_bar():
        learn.fit_progressive(2, sizes=(32,200), fast=dict(cache=small_disk, decoded=True))
    del learn
    gc.collect()        # the disk has the space again when nobody reads the files
    clear_cache(small_disk)
    (small_disk/'ballast').write_bytes(bytes(700_000))
    with pytest.raises(ValueError, match='free some space'):
        presize_images(files, 64, small_disk, progress=False, decoded=True)
    (small_disk/'ballast').unlink()
    presize_images(files, 64, small_disk, progress=False, decoded=True)
    pixels = Pixels(small_disk/'decoded', 64).reserve(files)
    assert pixels.there.all()
    check_true(pixels, files)

def test_disk_that_gives_less_than_it_says(folder, tmp_path, monkeypatch):
    "Space cannot be claimed, or not be written to: an error with the way out, and nothing half"
    def full(*args): raise OSError(errno.ENOSPC, 'No space left on device')
    files = get_image_files(folder/'train').sorted()
    with monkeypatch.context() as m:
        m.setattr(os, 'posix_fallocate', full)
        with pytest.raises(OSError, match='No space left.*pass another folder'):
            presize_images(files, 40, tmp_path, progress=False, decoded=True)
    with monkeypatch.context() as m:
        m.setattr(os, 'pwrite', full)
        with pytest.raises(OSError, match='No space left.*pass another folder'):
            presize_images(files, 40, tmp_path, progress=False, decoded=True)
    pixels = Pixels(tmp_path/'decoded', 40).reserve(files)
    assert not pixels.there.any()
    for f in files: pixels.fill(f)
    check_true(pixels, files)

def test_written_in_parts(folder, tmp_path, monkeypatch):
    "A disk may take less than it is given"
    real = os.pwrite
    monkeypatch.setattr(os, 'pwrite', lambda fd, data, at: real(fd, data[:999], at))
    files = get_image_files(folder/'train').sorted()
    pixels = Pixels(tmp_path, 40).reserve(files)
    for f in files: pixels.fill(f)
    check_true(pixels, files)

def test_clear_cache(folder, tmp_path):
    "It lists, removes, leaves what is not its own, and who reads goes on"
    (tmp_path/'mine').mkdir()
    for f in ('mine/a.jpg','a.pixels','notes.txt'): (tmp_path/f).write_text('mine')
    presize_images(folder/'train', 20, tmp_path, progress=False)
    dls = data(folder, cache=tmp_path, decoded=True)
    x = batches(dls.valid)
    listed = clear_cache(tmp_path, dry=True)
    assert list(listed.copies)==['pixels','JPEG'] and list(listed['size'])==['48x48','20'] and (listed.MB>0).all()
    assert clear_cache(tmp_path).equals(listed) and not len(clear_cache(tmp_path))
    same_batches(batches(dls.valid), x)
    assert len(batches(dls.train))==6
    left = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob('*') if f.is_file() and f.suffix!='.lock')
    assert left==['a.pixels','mine/a.jpg','notes.txt']
    same_batches(batches(data(folder, cache=tmp_path, decoded=True).valid), x)

def test_bad_arguments(folder, tmp_path):
    "Any truth will do for `decoded` and `dry`"
    want = batches(data(folder, cache=tmp_path, decoded=True).valid)
    same_batches(batches(data(folder, cache=tmp_path, decoded='yes').valid), want)
    a,b = (data(folder).fast(cache=tmp_path, decoded=o) for o in (3,True))
    same_batches(batches(a.valid), batches(b.valid))
    with pytest.raises(TypeError, match='has no argument `decode`: pass `decoded`'):
        small_learner(data(folder)).fit_progressive(2, sizes=(16,32), fast=dict(decode=True))
    assert presize_images(folder, 40, tmp_path, decoded='yes').name=='decoded'
    with pytest.raises(ValueError, match='cache='): clear_cache(3)
    assert clear_cache(tmp_path, dry='no').equals(clear_cache(tmp_path, dry=True))
    block = DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      item_tfms=RandomResizedCrop(48))
    with pytest.raises(ValueError, match='have no `Resize`'):
        block.dataloaders(folder, bs=4, num_workers=0).fast(cache=tmp_path, decoded=True)
    padded = block.new(item_tfms=Resize(48, 'pad')).dataloaders(folder, bs=4, num_workers=0)
    with pytest.raises(ValueError, match="padded .* use method='crop'"): padded.fast(cache=tmp_path, decoded=True)
    squished = block.new(item_tfms=Resize(48, 'squish')).dataloaders(folder, bs=4, num_workers=0)
    kept = squished.fast(cache=tmp_path, decoded=True)
    assert kept.one_batch()[0].shape==(4,3,48,48)
    assert (kept.train_ds.tls[0].tfms.fs[-1].cache.there!=0).sum()==4
