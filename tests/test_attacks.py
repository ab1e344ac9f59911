"What was tried to break it: data, disks and memory as they should not be"
import errno, resource
import pytest
from helpers import *
from fastai_progresize.load.files import file_fault, find_faults
from fastai_progresize.load.read import ScaledImage
from fastai_progresize.checks.split import SplitCheck
from fastai_progresize.checks.trial import is_out_of_memory

kw = dict(bs=4, num_workers=0)
two = dict(n_epoch=2, sizes=(32,48))

def noisy(w, h, seed=0): return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (h,w,3), dtype=np.uint8))

def smooth(w, h, seed=0):
    "A picture of large shapes, as photographs have them"
    a = np.random.RandomState(seed).randint(0, 255, (6,8,3), dtype=np.uint8)
    return Image.fromarray(a).resize((w,h), Image.BICUBIC)

def save_all(d, n=12, make=smooth, suffix='jpg', size=(80,60)):
    "`n` images of two classes"
    for i in range(n):
        (d/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
        make(*size, seed=i).save(d/'ab'[i%2]/f'{i}.{suffix}')
    return d

def sorted_files(d): return get_image_files(d).sorted()
def small(dls): return small_learner(dls, model=partial(small_model, 2))
def trains(dls, **kwargs):
    learn = small(dls)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(**{**two, **kwargs})
    assert list(learn.stage_history['size'])==[32,48]

# 1. images of a few pixels, many images, no images

tiny = [(1,1), (1,200), (200,1), (2,200), (200,2), (3,7), (15,400), (400,15)]

@pytest.mark.parametrize('method', [ResizeMethod.Crop, ResizeMethod.Pad, ResizeMethod.Squish])
def test_tiny_images_look_as_fastais(tmp_path, method):
    for w,h in tiny:
        f = tmp_path/f'{w}x{h}.jpg'
        noisy(w, h).save(f)
        for size in (32, (24,48), (48,24)):
            for pad,split_idx in ((PadMode.Zeros,0), (PadMode.Reflection,1)):
                a,b = (Resize(size, method, pad)(o.create(f), split_idx=split_idx)
                       for o in (PILImage,ScaledImage) if not set_seed(1))
                assert (image2tensor(a).float()-image2tensor(b).float()).abs().mean()<=1, (w, h, size, pad)

@pytest.mark.parametrize('size,method', [(48, 'pad'), ((48,96), 'crop'), ((96,48), 'squish')])
def test_tiny_images_train(tmp_path, size, method):
    for i,(w,h) in enumerate(tiny+tiny[1:5]): noisy(w, h, i).save(tmp_path/f'{"ab"[i%2]}{i}.jpg')
    dls = ImageDataLoaders.from_name_func(tmp_path, sorted_files(tmp_path), lambda o: o[0], valid_pct=.34, seed=1,
                                          item_tfms=Resize(size, method), **kw)
    learn = small(dls)
    sizes = [tuple(o//2 for o in hw(size)), size]
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, sizes=sizes)
    assert len(learn.stage_history)==2

def test_undecoded_images_hold_no_file(tmp_path):
    f = tmp_path/'a.jpg'
    noisy(40, 30).save(f)
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd'))+20, own[1]))
    try: ims = [ScaledImage.create(f) for _ in range(60)]
    finally: resource.setrlimit(resource.RLIMIT_NOFILE, own)
    assert (np.asarray(ims[-1])==np.asarray(PILImage.create(f))).all()

@pytest.mark.parametrize('whole', [False,True])
def test_pipes_are_not_opened(tmp_path, whole):
    d = save_all(tmp_path/'d')
    os.mkfifo(d/'b'/'x.jpg')
    says = 'x.jpg cannot be read as an image: it is not a regular file'
    assert find_faults(get_image_files(d), whole=whole)=={str(d/'b'/'x.jpg'): 'it is not a regular file'}
    with pytest.raises(ValueError, match=says): presize_images(d, 20, tmp_path/'c', progress=False)
    if whole: return
    items = sorted_files(d)
    items.insert(1, items.pop(-1))      # the second: fastai itself opens the first
    assert items[1].is_fifo()
    block = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, item_tfms=Resize(48),
                      splitter=IndexSplitter(range(9, 13)))
    dls = block.dataloaders(items, path=d, **kw)
    with pytest.raises(ValueError, match=says): trains(dls)

# 2. copies: full disks, killed runs, bad arguments

@pytest.fixture
def photos(tmp_path): return save_all(tmp_path/'photos', 6, noisy, size=(160,120))

def copies(d): return {f.name: f.read_bytes() for f in d.iterdir()}

def test_full_disk_leaves_no_half_copy(photos, tmp_path):
    disk = tmp_path/'disk'
    disk.mkdir()
    if subprocess.run(['mount','-t','tmpfs','-o','size=60k','tmpfs',disk], capture_output=True).returncode:
        pytest.skip('no permission to mount')
    try:
        with pytest.raises(OSError, match=r'No space left.*0\.\d MiB are free there.*pass another folder'):
            presize_images(photos, 100, disk, progress=False)
        left = list((disk/'100').iterdir())
        assert left and all(file_fault(f, whole=True) is None for f in left) and len(left)<6
        subprocess.run(['mount','-o','remount,size=2m',disk], check=True)
        assert len(copies(presize_images(photos, 100, disk, progress=False)))==6
    finally: subprocess.run(['umount','-l',disk])

def test_short_writes_leave_no_half_copy(photos, tmp_path):
    "A file size limit cuts what is written, as a full disk does"
    own = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000,own[1]))
    try:
        with pytest.raises(OSError, match='File too large.*pass another folder'):
            presize_images(photos, 100, tmp_path/'c', progress=False)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, own)
    assert not copies(tmp_path/'c'/'100')

def test_damaged_copies_are_made_again(photos, tmp_path):
    cache = presize_images(photos, 100, tmp_path/'c', progress=False)
    whole = copies(cache)
    a,b,*_ = sorted(cache.iterdir())
    a.write_bytes(a.read_bytes()[:3000])
    b.write_bytes(b'')
    presize_images(photos, 100, tmp_path/'c', progress=False)
    assert copies(cache)==whole

def test_leftovers_are_removed(photos, tmp_path):
    "What a killed run had begun to write; not what another run may be writing now"
    (tmp_path/'c'/'100').mkdir(parents=True)
    old,new = (tmp_path/'c'/'100'/f'tmp{o}tmp' for o in ('old','new'))
    for o in (old,new): o.write_bytes(b'half')
    os.utime(old, (time.time()-7200,)*2)
    cache = presize_images(photos, 100, tmp_path/'c', progress=False)
    assert not old.exists() and new.exists() and len(copies(cache))==7

bad_args = [
    (dict(size=-1), 'size=-1: pass an int of at least 1'), (dict(size='128'), "size='128': pass an int of at least 1"),
    (dict(size=True), 'size=True: pass an int'), (dict(size=float('nan')), 'size=nan: pass an int'),
    (dict(path='nowhere'), "path='nowhere' is not a folder: pass a folder of images, or a list"),
    (dict(path=5), "path='5' is not a folder"), (dict(path=[]), r"path='\[\]' has no images"),
    (dict(path=[5]), 'path: 5 is not a path'), (dict(path=['gone.jpg']), 'gone.jpg cannot be read as an image'),
    (dict(cache='file'), "cache='file': file is a file, pass another folder"),
    (dict(cache='file/c'), "cache='file/c': file is a file, pass another folder"),
    (dict(cache=5), 'cache=5: pass a folder'),
]

@pytest.mark.parametrize('args,says', bad_args, ids=str)
def test_bad_arguments_of_presize_images(photos, tmp_path, args, says):
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match=says):
        presize_images(**{**dict(path=photos, size=100, cache='c', progress=False), **args})

def test_a_file_or_an_empty_folder_is_refused(photos, tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='0.jpg.* is not a folder'): presize_images(photos/'a'/'0.jpg', 100, 'c')
    with pytest.raises(ValueError, match='empty.* has no images'): presize_images(tmp_path/'empty', 100, 'c')

def test_no_copies_of_images_in_memory():
    "`cache` where nothing is read from files changes nothing"
    ims = [np.array(smooth(80, 60, i)) for i in range(12)]
    block = DataBlock((ImageBlock,CategoryBlock), get_x=ItemGetter(0), get_y=ItemGetter(1), item_tfms=Resize(48),
                      splitter=RandomSplitter(.34, seed=1))
    trains(block.dataloaders([(o, i%2) for i,o in enumerate(ims)], **kw), fast=dict(cache='c'))

# 3. memory runs out

@pytest.mark.parametrize('e', [
    MemoryError(),
    OSError(errno.ENOMEM, 'Cannot allocate memory'), RuntimeError('could not create a primitive'),
    RuntimeError('could not create a memory object'), RuntimeError('could not execute a primitive'),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError('std::bad_alloc'), RuntimeError("can't start new thread"),
    torch.OutOfMemoryError('CUDA out of memory')], ids=repr)
def test_memory_errors(e): assert is_out_of_memory(e)

@pytest.mark.parametrize('e', [RuntimeError('could not create a primitive descriptor for a convolution'),
                               RuntimeError('mat1 and mat2 shapes cannot be multiplied'),
                               OSError(2, 'x'), KeyError('memory')], ids=repr)
def test_other_errors(e): assert not is_out_of_memory(e)

limited = """import resource, sys, warnings
from fastai.vision.all import *
from fastai_progresize.all import *
torch.set_num_threads(1)
def new_learner():
    dls = ImageDataLoaders.from_path_func(sys.argv[1], get_image_files(sys.argv[1]).sorted(), parent_label, bs=8,
                                          valid_pct=.34, seed=1, item_tfms=Resize(128), num_workers=0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat())
def outcome(mib):
    learn = new_learner()
    used = int(open('/proc/self/statm').read().split()[0])*os.sysconf('SC_PAGE_SIZE')
    resource.setrlimit(resource.RLIMIT_AS, (used+int(mib)*2**20,-1))
    try: learn.preflight(2, sizes=(64,128), seconds=.01)
    except ValueError as e: return str(e)
    except BaseException as e: return f'raw {e!r}'
    return 'fits'
for mib in sys.argv[2:]:
    sys.stdout.flush()
    if pid := os.fork(): os.waitpid(pid, 0)
    else:
        print(outcome(mib).replace(chr(10), ' '), flush=True)
        os._exit(0)"""

def outcomes(d, limits):
    "What a preflight says in processes that may use some MiB more than they do"
    res = in_python(limited, d.parent, save_all(d, size=(200,150)), *limits).splitlines()
    assert len(res)==len(limits)
    for o in res: assert o=='fits' or re.search('[Mm]emory', o) and 'fails on' not in o and not o.startswith('raw'), o
    return res

def test_little_memory(tmp_path):
    "No error of torch, and no model that is to blame"
    *a,b,c = outcomes(tmp_path/'d', (0,0,0,0,0,30,2000))      # where it runs out differs
    assert all('Memory ran out while checking data and model' in o for o in a) and 'fit' in b and c=='fits'

@pytest.mark.long
def test_any_memory(tmp_path, count):
    res = outcomes(tmp_path/'d', range(0, 400, 10))
    assert 'fits' in res
    count('memory limits, with a clear error or none', len(res), len(res))

# 4. leaks

def by_path(items, size, seed, d='.'):
    "A split for each `seed`; where the items are not below `d`, their keys are whole paths"
    block = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, splitter=RandomSplitter(.3, seed=seed),
                      item_tfms=Resize(size))
    return block.dataloaders(items, path=d, **kw)

def leaks(make, says='look the same', seeds=(1,2), sizes=(32,48)):
    "`make` at two sizes with these seeds: refused before training"
    seed = dict(zip(sizes, seeds))
    learn = small(make(sizes[-1], seeds[-1]))
    w = weights(learn)
    with pytest.raises(ValueError, match=f'Leak: .*{says}'):
        learn.fit_progressive(2, sizes=sizes, get_dls=lambda size, bs: make(size, seed[size]))
    assert same_weights(w, weights(learn))

def passes(make, seeds=(1,1), sizes=(32,48)):
    seed = dict(zip(sizes, seeds))
    learn = small(make(sizes[-1], seeds[-1]))
    check = partial(check_run, Run(learn, 2, sizes, get_dls=lambda size, bs: make(size, seed[size])))
    before = get_random_states()
    check()
    after = get_random_states()
    assert before['random_state']==after['random_state']
    assert torch.equal(before['torch_state'], after['torch_state'])
    assert (before['numpy_state'][1]==after['numpy_state'][1]).all()

@pytest.mark.parametrize('n', [24,400])
def test_leak_of_a_folder_per_size(tmp_path, n):
    "What has the same name in both is compared, however many there are"
    for i in range(n):
        im = smooth(128, 96, i)
        for size in (48,64):
            f = tmp_path/f'data{size}'/'ab'[i%2]/f'{i}.jpg'
            f.parent.mkdir(parents=True, exist_ok=True)
            im.resize((size*4//3,size), Image.BILINEAR).save(f)
    def _make(size, seed): return by_path(sorted_files(tmp_path/f'data{size}'), size, seed)
    leaks(_make, sizes=(48,64))
    passes(_make, sizes=(48,64))

def test_leak_by_a_link_of_a_later_stage(tmp_path):
    "Links are looked for at each stage, not only at the first that reads the folder"
    files,check = sorted_files(save_all(tmp_path/'d')),SplitCheck()
    block = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, item_tfms=Resize(32),
                      splitter=FuncSplitter(lambda o: o in files[:2]))
    def _dls(items): return block.dataloaders(items, path=tmp_path, **kw)
    check(_dls(files), 32)
    (link := files[0].with_name('link.jpg')).symlink_to(files[0])
    with pytest.raises(ValueError, match='Leak: 1 images are validated on at one stage and trained on at another'):
        check(_dls([*files[1:], link]), 48)

@pytest.mark.parametrize('n', [12,300])
def test_leak_of_png_and_jpeg(tmp_path, n):
    d = save_all(save_all(tmp_path, n), n, suffix='png')
    def _make(size, seed): return by_path(sorted_files(d), size, seed, d)
    leaks(_make, seeds=(1,1))
    passes(lambda size, seed: by_path(sorted_files(d).filter(lambda o: o.suffix=='.jpg'), size, seed, d))

def test_leak_by_links(tmp_path):
    "A link to a file, a link to a folder, a relative path"
    d = save_all(tmp_path/'d')
    (tmp_path/'links').mkdir()
    for f in sorted_files(d): (tmp_path/'links'/f'{f.parent.name}_{f.stem}.jpg').symlink_to(f)
    (tmp_path/'folder').symlink_to(d)
    says = r'images are validated on .* such as (.*/)?\d+\.jpg'
    for other in (tmp_path/'links', tmp_path/'folder', Path('d')):
        def _items(size): return sorted_files(d if size==32 else other)
        def _make(size, seed):
            block = DataBlock((ImageBlock,CategoryBlock), get_y=lambda f: f.name[-5]>'4', item_tfms=Resize(size),
                              splitter=RandomSplitter(.3, seed=seed))
            return block.dataloaders(_items(size), path=tmp_path, **kw)
        leaks(_make, says)

def test_leak_by_a_loop(tmp_path):
    d = save_all(tmp_path/'d')
    (d/'a'/'loop').symlink_to(d)
    items = sorted_files(d)
    assert len(items)>100
    leaks(lambda size, seed: by_path(items, size, seed, d), 'images are in both the training and the validation set',
          seeds=(1,1))

class Tensors:
    "A dataset of torch, whose items only its author knows"
    def __init__(self, ims, size): self.ims,self.size = ims,hw(size)
    def __len__(self): return len(self.ims)
    def __getitem__(self, i):
        x = tensor(np.array(self.ims[i].resize(self.size[::-1]))).permute(2, 0, 1).float()/255
        return (x-.45)/.22,i%2

def torch_loaders(ds, size, seed, split=torch.utils.data.random_split):
    n = len(ds)*3//10
    parts = split(ds, [len(ds)-n,n], generator=torch.Generator().manual_seed(seed))
    return DataLoaders(*(torch.utils.data.DataLoader(o, batch_size=4) for o in parts))

def own_split(ds, ns, generator):
    order = torch.randperm(sum(ns), generator=generator).tolist()
    return [Tensors([ds.ims[i] for i in o], ds.size) for o in (order[:ns[0]],order[ns[0]:])]

@pytest.mark.parametrize('n', [24,400])
def test_leak_of_torch_loaders(tmp_path, n):
    ims = [smooth(80, 60, i) for i in range(n)]
    def _make(size, seed): return torch_loaders(Tensors(ims, size), size, seed)
    leaks(_make)
    passes(_make)
    if n>100: return
    def _make(size, seed): return torch_loaders(Tensors(ims, size), size, seed, own_split)
    leaks(_make)
    passes(_make)

def test_leak_of_torchvision(tmp_path):
    from torchvision import datasets as D, transforms as T
    d = save_all(tmp_path/'d', 24)
    def _make(size, seed):
        tfm = T.Compose([T.Resize(hw(size)), T.ToTensor()])
        return torch_loaders(D.ImageFolder(d, tfm), size, seed)
    leaks(_make, 'images are validated on')
    passes(_make)

class Item:
    def __init__(self, im, size): self.im,self.size = im,size

def in_memory(items, get_x, size, seed):
    block = DataBlock((TransformBlock(type_tfms=PILImage.create, batch_tfms=IntToFloatTensor),CategoryBlock),
                      get_x=get_x, get_y=lambda o: 0, splitter=RandomSplitter(.3, seed=seed), item_tfms=Resize(size))
    return block.dataloaders(items, **kw)

def test_leak_of_objects():
    "What else they hold differs at each size"
    ims = [smooth(80, 60, i) for i in range(24)]
    def _make(size, seed): return in_memory([Item(o, size) for o in ims], lambda o: np.array(o.im), size, seed)
    leaks(_make)
    passes(_make)

@pytest.mark.parametrize('n', [24,300])
def test_leak_of_row_numbers(n):
    "Of a table that is shuffled at each stage: the numbers stand for other images"
    ims = [np.array(smooth(80, 60, i)) for i in range(n)]
    def _make(size, seed):
        order = np.random.RandomState(seed).permutation(n)
        return in_memory(range(n), lambda i: ims[order[i]], size, 1)
    leaks(_make)
    passes(_make)

def frame(i):
    "A still camera before which something small moves"
    a,y,x = np.array(smooth(80, 60, 0)).astype(float),10+i*2//70*8,i*2%70
    a[y:y+6,x:x+6] = 255
    return Image.fromarray((a + np.random.RandomState(i).normal(0, 3, a.shape)).clip(0, 255).astype(np.uint8))

def digit(i):
    "Strokes on black, of ten kinds"
    from PIL import ImageDraw
    im = Image.new('L', (28,28))
    rng = np.random.RandomState(i)
    ImageDraw.Draw(im).text((6+rng.rand()*4,2+rng.rand()*4), str(i%10), fill=255, font_size=20)
    return im.convert('RGB')

def part(i):
    "One product after another before the same wall, as on an assembly line"
    rng = np.random.RandomState(i)
    a = np.array(smooth(80, 60, 0)).astype(float)
    a[10:50,20:60] += rng.normal(0, 6, (5,5,3)).repeat(8, 0).repeat(8, 1)
    return Image.fromarray((a + rng.normal(0, 3, a.shape)).clip(0, 255).astype(np.uint8))

@functools.cache
def scene(): return smooth(300, 200, 3)
def tile(i):
    "Parts of one large picture, which overlap"
    x,y = np.random.RandomState(i).randint(0, 60, 2)
    return scene().crop((x, y, x+160, y+120))

def placeholder(i):
    "Some are missing, and a picture that says so stands in their place"
    return smooth(80, 60, 0) if i%12==0 else smooth(80, 60, i)

alike = dict(tile=tile, placeholder=placeholder, blank=lambda i: Image.new('RGB', (80,60), (i%5,)*3),
             digit=digit, noise=lambda i: noisy(80, 60, i), frame=frame, part=part,
             some_twice=lambda i: smooth(80, 60, i if i>=4 else i//2))

@pytest.mark.parametrize('n', [24,90,pytest.param(600, marks=pytest.mark.long)])
@pytest.mark.parametrize('name', alike)
def test_no_leak_of_images_that_are_alike(tmp_path, name, n):
    for i in range(n):
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        alike[name](i).save(tmp_path/'ab'[i%2]/f'{i}.png')
    passes(lambda size, seed: by_path(sorted_files(tmp_path), size, seed, tmp_path))
    ims = [alike[name](i) for i in range(n)]
    passes(lambda size, seed: torch_loaders(Tensors(ims, size), size, seed))
