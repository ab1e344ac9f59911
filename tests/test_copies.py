"Copies on disk are right, or an error, or made again: whatever happens to their files, to the folder, or beside a run"
import errno, pickle, shutil
from copy import deepcopy
import pytest
from filelock import FileLock
from helpers import *
from fastai_progresize.load import pixels as module
from fastai_progresize.load.pixels import Pixels, cover_size, load_image_pixels
from fastai_progresize.load.read import ScaledImage, ScaledToTensor

def picture(w, h, seed): return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h,w,3), dtype=np.uint8))

def save_pictures(d, n=6, start=0, sizes=((30,20),(20,34),(24,24),(50,40),(18,18),(44,30))):
    for i in range(n):
        f = d/'ab'[i%2]/f'{i}.png'
        f.parent.mkdir(parents=True, exist_ok=True)
        picture(*sizes[i%len(sizes)], i+start).save(f)
    return d

def truth(f, pixels): return load_image_pixels(f, cover_size(Image.open(f).size, pixels.size))

def fill(cache, files, size=16):
    pixels = Pixels(cache, size).reserve(files)
    for f in files: pixels.fill(f)
    return pixels

def check_right(pixels, files):
    for f in files:
        pixels.fill(f)
        assert torch.equal(pixels.planes(pixels.rows[str(f)]), truth(f, pixels)), f

@pytest.fixture(scope='module')
def photos(tmp_path_factory): return save_pictures(tmp_path_factory.mktemp('photos'))

@pytest.fixture(scope='module')
def files(photos): return get_image_files(photos).sorted()

@pytest.fixture(scope='module')
def caches(tmp_path_factory, files):
    "Folders of copies that are full: of the files, of another size, of the same files in another order, of others"
    d = tmp_path_factory.mktemp('caches')
    others = get_image_files(save_pictures(d/'others', start=10)).sorted()
    for _ in range(2): fill(d/'a', files)      # made, and used again
    fill(d/'size', files, 20)
    fill(d/'order', files[::-1])
    fill(d/'others_copies', others)
    return d

# 1. what happens to the files

names = 'pixels','index'
def one(d, name): return first(d.glob(f'*.{name}'))

def flip(file, where, bit):
    "Flip a bit of `file`, at a share of its length"
    data = bytearray(file.read_bytes())
    data[int(where*len(data))] ^= 1<<bit
    file.write_bytes(data)

def zero(file, start, end, value=0):
    data = bytearray(file.read_bytes())
    i,j = int(start*len(data)),int(end*len(data))
    data[i:j] = bytes([value])*(j-i)
    file.write_bytes(data)

def cut(file, share): os.truncate(file, int(share*file.stat().st_size))

def append(file, data):
    with open(file, 'ab') as f: f.write(data)

def entries(d):
    "The entries of an index, and what writes them back"
    file,head = one(d, 'index'),getattr(module, '_head', 0)
    data = file.read_bytes()
    return np.frombuffer(data[head:], module._entry).copy(),lambda e: file.write_bytes(data[:head]+e.tobytes())

def swap_entries(d, i, j, fields=module._entry.names):
    e,write = entries(d)
    for o in fields: e[o][[i,j]] = e[o][[j,i]]
    write(e)

def swap_pixels(d, i, j):
    "Swap as many bytes as the smaller of two images has"
    pixels,data = Pixels(d, 16),bytearray(one(d, 'pixels').read_bytes())
    e,_ = entries(d)
    (a,w,h),(b,w1,h1) = (o['place'][:3] for o in e[[i,j]])
    n = 3*min(w*h, w1*h1)
    data[a:a+n],data[b:b+n] = data[b:b+n],data[a:a+n]
    one(d, 'pixels').write_bytes(data)

def put(d, name, other):
    for o in (names if name=='both' else [name]): shutil.copy(one(other, o), one(d, o))

def hand_made(d, i, column, value, sealed=True):
    "An entry with another place or size, sealed as `Pixels` does it"
    e,write = entries(d)
    e['place'][i,column] = value
    if sealed: e['seal'][i] = module._seals(e[i:i+1], one(d, 'index').read_bytes()[:module._head])[0]
    write(e)

def other_key(d, i, key):
    e,write = entries(d)
    e['key'][i] = key
    e['seal'][i] = module._seals(e[i:i+1], one(d, 'index').read_bytes()[:module._head])[0]
    write(e)

def replace(d, name, how):
    file = one(d, name)
    file.unlink()
    how(file)

damage = {
    **{f'{name} bit {k}': lambda d, name=name, k=k: flip(one(d, name), (k+.5)/48, k%8)
       for name in names for k in range(48)},
    **{f'{name} zeroed {a}-{b}': lambda d, name=name, a=a, b=b: zero(one(d, name), a, b)
       for name in names for a,b in ((0,1),(0,.1),(.3,.5),(.5,.51),(.9,1))},
    **{f'{name} ones {a}-{b}': lambda d, name=name, a=a, b=b: zero(one(d, name), a, b, 255)
       for name in names for a,b in ((0,1),(.4,.6))},
    **{f'{name} cut {k}': lambda d, name=name, k=k: cut(one(d, name), k)
       for name in names for k in (0,.01,.25,.5,.99)},
    **{f'{name} longer {n}': lambda d, name=name, n=n: append(one(d, name), b'\1'*n)
       for name in names for n in (1,40,1000)},
    **{f'entries {i} and {j} swapped': lambda d, i=i, j=j: swap_entries(d, i, j) for i,j in ((0,1),(2,5),(3,4))},
    **{f'{o} of two entries swapped': lambda d, o=o: swap_entries(d, 0, 2, [o]) for o in module._entry.names},
    **{f'pixels {i} and {j} swapped': lambda d, i=i, j=j: swap_pixels(d, i, j) for i,j in ((0,1),(2,5),(3,4))},
    **{f'{name} of {o}': lambda d, name=name, o=o: put(d, name, d.parent/o)
       for name in (*names,'both') for o in ('size','order','others_copies')},
    **{f'column {c} is {v}': lambda d, c=c, v=v: hand_made(d, 1, c, v)
       for c in range(5) for v in (0,-1,1,200,2**31,2**62)},
    **{f'column {c} is {v}, not sealed': lambda d, c=c, v=v: hand_made(d, 1, c, v, sealed=False)
       for c in range(5) for v in (1,200)},
    **{f'key {v}': lambda d, v=v: other_key(d, 1, v) for v in (b'', b'\xff\xfe', b'a'*40)},
    **{f'{name} gone': lambda d, name=name: one(d, name).unlink() for name in names},
    **{f'{name} is a folder': lambda d, name=name: replace(d, name, Path.mkdir) for name in names},
    **{f'{name} is a pipe': lambda d, name=name: replace(d, name, os.mkfifo) for name in names},
}

def test_enough_kinds(): assert len(damage)>=180

@pytest.mark.parametrize('what', damage)
def test_no_wrong_pixels(caches, files, tmp_path, what):
    "Of a damaged file of pixels or index each image is right, or an error says what is wrong with the cache"
    d = tmp_path/'a'
    shutil.copytree(caches/'a', d)
    for o in ('size','order','others_copies'): (tmp_path/o).symlink_to(caches/o)
    damage[what](d)
    try: pixels = Pixels(d, 16).reserve(files)
    except OSError as e:
        assert 'is a' in what and re.search(f'cannot be written to {d} .16x16.*(pixels|index): .*pass another folder', str(e)), e
        return
    check_right(pixels, files)
    check_right(Pixels(d, 16).reserve(files), files)

def damage_somewhere(d, rng):
    "One of several kinds of damage, at a random place"
    file = one(d, rng.choice(names))
    data,(i,j) = bytearray(file.read_bytes()),sorted(rng.random() for _ in range(2))
    i,j = int(i*len(data)),int(j*len(data))
    kind = rng.choice(('bits','bytes','zeros','cut','longer','moved','removed'))
    if kind=='bits':
        for _ in range(rng.randint(1, 8)): data[rng.randrange(len(data))] ^= 1<<rng.randrange(8)
    elif kind=='bytes': data[i:j] = rng.randbytes(j-i)
    elif kind=='zeros': data[i:j] = bytes(j-i)
    elif kind=='cut': del data[i:]
    elif kind=='longer': data += rng.randbytes(rng.randint(1, 500))
    elif kind=='moved': data[:] = data[i:]+data[:i]
    else: del data[i:j]
    file.write_bytes(data)

@pytest.mark.long
def test_much_damage(caches, files, tmp_path, count):
    rng,n,n_wrong = random.Random(1),1000,0
    for k in range(n):
        d = tmp_path/str(k)
        shutil.copytree(caches/'a', d)
        for _ in range(rng.randint(1, 3)): damage_somewhere(d, rng)
        try: check_right(Pixels(d, 16).reserve(files), files)
        except AssertionError: n_wrong += 1
        shutil.rmtree(d)
    count('damaged copies, read right or made again', n, n-n_wrong)
    assert not n_wrong

@pytest.mark.parametrize('where', np.linspace(.05, .95, 7))
def test_damaged_between_reserve_and_first_use(caches, files, tmp_path, where):
    shutil.copytree(caches/'a', tmp_path/'a')
    pixels = Pixels(tmp_path/'a', 16).reserve(files)
    with open(pixels.file, 'r+b') as f:
        f.seek(int(where*pixels.file.stat().st_size))
        f.write(bytes(20))
    check_right(pixels, files)

def test_compared_once(caches, files, tmp_path, monkeypatch):
    "With its checksum, at the first use of an image in a process"
    seen,real = [],Pixels._checksum
    monkeypatch.setattr(Pixels, '_checksum', lambda self, i, x: seen.append(i) or real(self, i, x))
    pixels = Pixels(caches/'a', 16).reserve(files)
    for _ in range(3):
        for f in files: pixels.fill(f)
    assert sorted(seen)==list(range(len(files)))

# JPEG copies

def batch(dls): return dls.valid.one_batch()[0]

jpeg_damage = {
    **{f'bit {k}': lambda f, k=k: flip(f, (k+.5)/24, k%8) for k in range(24)},
    **{f'cut {k}': lambda f, k=k: cut(f, k) for k in (0,.5,.99)},
    **{f'zeroed {a}': lambda f, a=a: zero(f, a, a+.1) for a in (0,.5,.9)},
    'longer': lambda f: append(f, b'1234'),
    'hand-made': lambda f: picture(40, 30, 1).save(f),
    'no size': lambda f: picture(40, 30, 1).save(f, comment='x'),
    'no area': lambda f: picture(40, 30, 1).save(f, comment='0x0'),
    "another's": lambda f: shutil.copy(first(o for o in f.parent.iterdir() if o!=f), f),
    'a folder': lambda f: (f.unlink(), f.mkdir()),
    'a pipe': lambda f: (f.unlink(), os.mkfifo(f)),
}

@pytest.fixture(scope='module')
def jpegs(tmp_path_factory):
    d = tmp_path_factory.mktemp('jpegs')
    save_pictures(d/'photos', 8, sizes=((90,70),(80,120)))
    dls = get_dls(32, 4, d/'photos', num_workers=0, presize=40, cache=d/'copies')
    return d,dls,batch(dls)

@pytest.mark.parametrize('what', jpeg_damage)
def test_no_wrong_jpegs(jpegs, what):
    "A damaged JPEG copy is not read, but its source; `get_dls` makes it again"
    d,dls,want = jpegs
    copies = list((d/'copies'/'40').iterdir())
    whole = {f: f.read_bytes() for f in copies}
    try:
        for f in copies: f.unlink()
        originals = batch(dls)
        for f,o in whole.items(): f.write_bytes(o)
        for f in copies: jpeg_damage[what](f)
        got = batch(dls)
        assert all(torch.equal(x, a) or torch.equal(x, b) for x,a,b in zip(got, want, originals))
        try: again = get_dls(32, 4, d/'photos', num_workers=0, presize=40, cache=d/'copies')
        except OSError as e: assert 'folder' in what and 'pass another folder' in str(e)
        else: assert torch.equal(batch(again), want)
    finally:
        for f,o in whole.items():
            shutil.rmtree(f) if f.is_dir() else f.unlink(missing_ok=True)
            f.write_bytes(o)

# 2. one cache

def data(path, cache, **kwargs): return get_dls(16, 2, path, num_workers=0, presize=16, cache=cache, **kwargs)

def test_a_dataset_has_its_copies(photos, tmp_path):
    dls = data(photos, tmp_path, decoded=True)
    assert {o.dataset.copies for o in dls.loaders}=={dls.train.crops.pixels}
    assert dls.at_size(8).train.dataset.copies is dls.train.dataset.copies
    smaller = dls.at_size(8).fast().train.dataset.copies
    assert isinstance(smaller, Pixels) and smaller.folder==tmp_path/'decoded' and max(smaller.size)<16
    assert [data(photos, c).train.dataset.copies and 'JPEG' for c in (tmp_path,False)]==['JPEG',None]

def test_one_listing(photos, tmp_path):
    for decoded in (False,True): presize_images(photos, 16, tmp_path, progress=False, decoded=decoded)
    (tmp_path/'decoded'/'notes.txt').write_text('mine')
    assert clear_cache(tmp_path).copies.tolist()==['pixels','JPEG'] and not len(clear_cache(tmp_path))
    assert sorted(o.name for o in tmp_path.rglob('*') if o.is_file())==['copies.lock','notes.txt']

# 3. `DataLoaders` that outlive their copies

@pytest.fixture
def other(tmp_path): return save_pictures(tmp_path/'other', start=20)

def test_pickled_and_copies_gone(photos, other, tmp_path):
    "Read back after the cache was cleared, and filled with other images: an error that names it; with these: right"
    c = tmp_path/'c'
    dls = data(photos, c, decoded=True)
    want,pickled = batch(dls),pickle.dumps(dls)
    clear_cache(c)
    lost = pickle.loads(pickled)
    with pytest.raises(OSError, match=rf'{c}.*\.pixels were removed since .* make them again'): batch(lost)
    batch(data(other, c, decoded=True))
    for o in (lost,pickle.loads(pickled)):
        with pytest.raises(OSError, match=rf'{c}.*\.pixels have changed since .* make them again'): batch(o)
    data(photos, c, decoded=True)
    for o in (lost, pickle.loads(pickled), pickle.loads(pickle.dumps(pickle.loads(pickled)))): assert torch.equal(batch(o), want)
    assert torch.equal(batch(dls), want) and torch.equal(batch(deepcopy(dls)), want)

def test_replaced_beside_a_run(photos, other, files, tmp_path):
    "What reads a file that somebody replaces goes on with the old one, also if it has to be written to"
    pixels = fill(tmp_path, files)
    again = Pixels(tmp_path, 16).reserve(files)      # reads alone
    for o in (again.file,again.index): o.unlink()
    fill(tmp_path, get_image_files(other))
    again.seen[0] = 1
    assert torch.equal(again.planes(0), truth(files[0], again))
    os.pwrite(pixels.out[0].fileno(), bytes(100), int(again.places[1][0]))
    with pytest.raises(OSError, match='were replaced since'): again.fill(files[1])
    pixels.seen[1] = 0
    check_right(pixels, files)
    check_right(Pixels(tmp_path, 16).reserve(get_image_files(other)), get_image_files(other))

# 4. links, pipes, others' files

targets = dict(link=lambda f, o: f.symlink_to(o), hard=lambda f, o: os.link(o, f))

@pytest.mark.parametrize('suffix', ('.pixels','.index','.lock'))
@pytest.mark.parametrize('how', targets)
def test_nothing_is_written_through_a_link(files, tmp_path, how, suffix):
    mine = tmp_path/'mine'
    mine.write_text('mine')
    (tmp_path/'c').mkdir()
    pixels = Pixels(tmp_path/'c', 16)
    f = tmp_path/'c'/'copies.lock' if suffix=='.lock' else pixels.file.with_suffix(suffix)
    targets[how](f, mine)
    with pytest.raises(OSError, match=f'{f.name}: it is a .*link.*pass another folder'): pixels.reserve(files)
    assert mine.read_text()=='mine'

@pytest.mark.skipif(os.geteuid()!=0, reason='only root gives files away')
def test_others_files(caches, files, tmp_path):
    "They are read if they are full, and not written to"
    d = tmp_path/'a'
    shutil.copytree(caches/'a', d)
    for f in d.iterdir(): os.chown(f, 12345, 12345)
    check_right(Pixels(d, 16).reserve(files), files)
    more = [*files,tmp_path/'new.png']
    picture(30, 30, 7).save(more[-1])
    with pytest.raises(OSError, match='belongs to another user.*pass another folder'): Pixels(d, 16).reserve(more)

@pytest.mark.parametrize('decoded', (False,True))
@pytest.mark.parametrize('kind', ('dangling','a pipe','a file'))
def test_no_folder(photos, tmp_path, kind, decoded):
    c = tmp_path/'c'
    if kind=='dangling': c.symlink_to(tmp_path/'gone')
    elif kind=='a pipe': os.mkfifo(c)
    else: c.write_text('')
    want = f"{c} is {'a file' if kind=='a file' else 'no folder'}, pass another folder"
    with pytest.raises(ValueError, match=want): presize_images(photos, 16, c, progress=False, decoded=decoded)
    if kind!='a file':
        with pytest.raises(ValueError, match='is no folder, pass another folder'): data(photos, c, decoded=decoded)

def test_lock_that_is_held(files, tmp_path, monkeypatch):
    "A warning says who is waited for"
    real = FileLock.acquire
    def acquire(lock, timeout=-1):
        if timeout<0: holder.release()       # the other process ends at last
        return real(lock, timeout=min(timeout, .1))
    tmp_path.mkdir(exist_ok=True)
    holder = FileLock(tmp_path/'copies.lock')
    real(holder)
    monkeypatch.setattr(FileLock, 'acquire', acquire)
    with pytest.warns(UserWarning, match='Another process holds .*copies.lock.*pass another folder'): fill(tmp_path, files)

# 5. disks that are read-only, and files that go away

def refuse_writing(m):
    real = os.open
    def _open(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY|os.O_RDWR|os.O_CREAT): raise OSError(errno.EROFS, 'Read-only file system', str(path))
        return real(path, flags, *args, **kwargs)
    m.setattr(os, 'open', _open)

def test_read_only(photos, files, tmp_path, monkeypatch):
    "Full copies serve without a lock; what is missing or wrong is an error with the way out"
    c = tmp_path/'c'
    dls,jpeg = (data(photos, c, decoded=o) for o in (True,False))
    want = batch(dls)
    for o in files: dls.train.crops.pixels.fill(o)
    before = sorted((o.name,o.stat().st_mtime_ns) for o in c.rglob('*'))
    refuse_writing(monkeypatch)
    again = data(photos, c, decoded=True)
    assert torch.equal(batch(again), want) and torch.equal(batch(pickle.loads(pickle.dumps(again))), want)
    assert torch.equal(batch(data(photos, c)), batch(jpeg))
    assert sorted((o.name,o.stat().st_mtime_ns) for o in c.rglob('*'))==before
    with pytest.raises(OSError, match='Read-only file system.*: pass another folder'):
        get_dls(24, 2, photos, num_workers=0, presize=24, cache=c, decoded=True)
    pixels = again.train.crops.pixels
    with open(pixels.file, 'r+b') as f: f.write(bytes(pixels.file.stat().st_size//2))
    with pytest.raises(OSError): data(photos, c, decoded=True)

@pytest.mark.parametrize('name', names)
def test_cut_off_beside_a_run(photos, tmp_path, name):
    "An error, where reading on would kill the process"
    dls = data(photos, tmp_path, decoded=True)
    batch(dls)
    pixels = dls.train.crops.pixels
    os.truncate(pixels.file if name=='pixels' else pixels.index, 200)
    for dl in dls.loaders:
        with pytest.raises(OSError, match=r'\.pixels were cut off since .* make them again'): list(dl)
    assert len(list(data(photos, tmp_path, decoded=True).valid))>0

# 6. thin and huge

@pytest.mark.parametrize('size', ((1,10_000),(10_000,1),(2,3000),(1,1_000_000)))
def test_thin_images_stay_out(photos, tmp_path, size, capsys):
    d = tmp_path/'d'
    shutil.copytree(photos, d)
    picture(*size, 1).save(d/'a'/'thin.png')
    dls = data(d, tmp_path/'c', decoded=True)
    assert 'copies of 6 images' in capsys.readouterr().out
    assert sum(o.stat().st_size for o in (tmp_path/'c').rglob('*'))<50_000
    dl,i = first((dl,i) for dl in dls.loaders for i,f in enumerate(dl.items) if f.stem=='thin')
    dl.drop_last = False
    for seed in (1,2):
        set_seed(seed)
        got = first(dl.create_batches([i]))[0]
        set_seed(seed)
        want = Resize(16, resamples=(Image.BICUBIC,0))(ScaledImage.create(d/'a'/'thin.png'), split_idx=dl.split_idx)
        assert torch.equal(got[0], ScaledToTensor()(want))
    assert len(list(data(d, tmp_path/'c', decoded=True).valid)) and not capsys.readouterr().out

@pytest.mark.parametrize('gone', (['posix_fallocate'],['pwrite'],['pwrite','pread','posix_fallocate','O_NOFOLLOW','geteuid']))
def test_systems_with_less(photos, files, tmp_path, monkeypatch, gone):
    for o in gone: monkeypatch.delattr(os, o)
    check_right(fill(tmp_path, files), files)
    check_right(Pixels(tmp_path, 16).reserve(files), files)
    assert len(list(data(photos, tmp_path).valid))
    (cut := tmp_path/'cut.png').write_bytes(Path(files[0]).read_bytes()[:99])
    assert list(find_faults([*files, cut]))==[str(cut)]

def test_sizes_beyond_the_format(files, tmp_path, monkeypatch):
    monkeypatch.setattr(module, '_most', 49)
    with pytest.raises(ValueError, match='3.png cannot be read as an image: it is 50x40 px.* 1 to 49 px'):
        Pixels(tmp_path, 16).reserve(files)

def test_long_images_have_no_jpeg_copy(tmp_path):
    "A JPEG has at most 65,500 px a side"
    (tmp_path/'d').mkdir()
    Image.new('RGB', (20,70_000)).save(tmp_path/'d'/'a.png')
    assert not list(presize_images(tmp_path/'d', 19, tmp_path/'c', progress=False).iterdir())

def test_only_what_is_missing_is_claimed(files, tmp_path, monkeypatch):
    "Space for new images, not for holes in the file"
    pixels = fill(tmp_path, files[:3])
    claimed,real = [],os.posix_fallocate
    monkeypatch.setattr(os, 'posix_fallocate', lambda fd, at, n: claimed.append((at,n)) or real(fd, at, n))
    had = pixels.file.stat().st_size
    pixels = Pixels(tmp_path, 16).reserve(files)
    assert claimed==[(had,pixels.file.stat().st_size-had)]
    check_right(pixels, files)
