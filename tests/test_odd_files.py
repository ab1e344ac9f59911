"Files with odd names, in odd tables, and images that cannot be read in any part of a dataset"
import shutil, threading, time
import pytest
from helpers import *
from fastai_progresize.load.files import dataset_files, image_files
from test_bad_input import Untrained, refused

# names

latin = os.fsdecode(b'caf\xe9.jpg')      # not UTF-8
odd_names = [latin, 'a\nb.jpg', ' two  spaces .jpg', '😀é.jpg', 'x'*251+'.jpg', '-rf.jpg', '100%d %s.jpg',
             'a\\b.jpg', "quo'te\"s.jpg", '[x]*?.jpg']

@pytest.fixture
def odd(path, tmp_path):
    "The letters with odd names, in folders of odd names"
    d = tmp_path/os.fsdecode(b'd\xe9\n%')
    shutil.copytree(path, d)
    for part in ('train','val'):
        for f,name in zip(get_image_files(d/part).sorted(), odd_names): f.rename(f.parent/name)
    return d

def odd_learner(d, folder, **kwargs):
    set_seed(3)
    learn = small_learner(get_dls(32, 8, d, num_workers=0, **kwargs), lr=3e-3)
    learn.path = folder
    return learn

def pixels(dl): return sorted(o.numpy().tobytes() for x,_ in dl for o in x)

@pytest.mark.parametrize('kind', ('plain','cache','decoded'))
@pytest.mark.every(2)
def test_odd_names(path, odd, tmp_path, kind):
    "The same pixels as by other names; a run is trained and resumed"
    kw = {} if kind=='plain' else dict(cache=tmp_path/os.fsdecode(b'c\xe9'), decoded=kind=='decoded')
    folder = tmp_path/os.fsdecode(b'm\xe9')
    a,b = (odd_learner(d, folder, **kw) for d in (path,odd))
    assert pixels(a.dls.valid)==pixels(b.dls.valid)
    assert {f.name for o in b.dls.loaders for f in o.items}>=set(odd_names)
    whole,args = odd_learner(odd, folder, **kw),dict(n_epoch=3, sizes=(16,24,32))
    whole.fit_progressive(**args)
    stopped,again = (odd_learner(odd, folder, **kw) for _ in range(2))
    with pytest.raises(KeyboardInterrupt): stopped.fit_progressive(**args, checkpoint='c', cbs=StopAt(4))
    again.fit_progressive(**args, checkpoint='c', resume=True)
    assert same_weights(weights(again), weights(whole)) and len(again.stage_history)==3

def test_odd_names_in_errors(odd, tmp_path):
    "Files that cannot be read, leaks and changed data are named"
    bad = first(f for f in get_image_files(odd/'train') if f.name==latin)
    learn,good = odd_learner(odd, tmp_path),bad.read_bytes()
    learn.fit_progressive(1, sizes=(32,), checkpoint='c')
    other = first(get_image_files(odd/'train/J'))
    other.rename(other.with_name(latin))
    changed = "the train items have changed: "
    with refused(odd_learner(odd, tmp_path), changed):
        odd_learner(odd, tmp_path).fit_progressive(1, sizes=(32,), checkpoint='c', resume=True)
    bad.write_bytes(good[:500])
    assert find_faults(get_image_files(odd))=={str(bad):'Truncated File Read'}
    with refused(learn, f'{bad} cannot be read as an image: Truncated File Read'): learn.fit_progressive(2, (16,32))
    bad.write_bytes(good)
    def leaks(size, bs):
        files = get_image_files(odd/'train').sorted()
        block = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, item_tfms=Resize(size),
                          batch_tfms=Normalize.from_stats(*imagenet_stats),
                          splitter=IndexSplitter([files.index(bad)] if size==16 else [len(files)-1]))
        return block.dataloaders(files, bs=bs, path=odd, num_workers=0)
    with pytest.raises(ValueError, match=f'Leak: .*{latin}'):
        small_learner(leaks(32, 8)).fit_progressive(2, (16,32), get_dls=leaks)

def test_odd_names_in_tables(odd, tmp_path):
    "Rows of a table, as paths and, behind a function that reads them, as rows; and a class of such a name"
    files = get_image_files(odd).sorted()
    df = pd.DataFrame(dict(file=files.map(str), label=[os.fsdecode(b'\xe9') if o.parent.name=='A' else o.parent.name
                                                       for o in files], valid=['val' in o.parts for o in files]))
    def read(row): return np.array(Image.open(row['file']))
    for get_x in (ColReader('file'), read):
        block = DataBlock((ImageBlock,CategoryBlock), get_x=get_x, get_y=ColReader('label'), item_tfms=Resize(32),
                          splitter=ColSplitter('valid'))
        learn = small_learner(block.dataloaders(df, bs=8, num_workers=0))
        learn.path = tmp_path
        learn.fit_progressive(2, sizes=(16,32), checkpoint=f'c{len(list(tmp_path.iterdir()))}')
        state = read_checkpoint(first(tmp_path.rglob('*.ckpt')))
        assert state['plan']['vocab'][-1]==os.fsdecode(b'\xe9') and len(learn.stage_history)==2

def test_odd_folder_is_printed(odd, tmp_path):
    "What is printed with a folder's name can be printed"
    code = """
import sys
from fastai.vision.all import *
from fastai_progresize.all import *
d,m = map(Path, sys.argv[1:])
dls = get_dls(32, 8, d, num_workers=0, cache=m, decoded=True)
learn = Learner(dls, nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), path=m)
learn.fit_progressive(1, sizes=(32,), fast=dict(cache=m), checkpoint='c', resume=True)
learn.fit_progressive(1, sizes=(32,), fast=dict(cache=m), checkpoint='c', resume=True)"""
    said = in_python(code, tmp_path, odd, tmp_path/os.fsdecode(b'm\xe9'))
    assert r'm\udce9/decoded' in said and r'There is no checkpoint in ' in said and 'has ended' in said

def test_odd_folder_of_a_command(odd, tmp_path):
    args = '--sizes','32','--epochs','1','--bs','8','--num-workers','0','--out',os.fsdecode(b'o\xe9')
    r = subprocess.run([bin_dir/'progresize-fit', odd, *args], cwd=tmp_path, capture_output=True,
                       env={**os.environ, 'PYTHONWARNINGS':'ignore', 'PYTHONIOENCODING':'utf-8'})
    assert r.returncode==0, r.stderr[-2000:]
    assert rb'learner.pkl are in o\udce9' in r.stdout and os.path.exists(tmp_path/os.fsdecode(b'o\xe9')/'learner.pkl')

# tables

odd_columns = ['_path','class','from','def']

def table(path, column):
    files = get_image_files(path).sorted()
    return pd.DataFrame({column:[str(o.relative_to(path)) for o in files], 'label':[o.parent.name for o in files],
                         'valid':['val' in o.parts for o in files]})

@pytest.mark.parametrize('column', odd_columns)
@pytest.mark.parametrize('more', (None,'more','twice'))
@pytest.mark.every(2)
def test_odd_columns(path, column, more):
    "The column of files has any name, one of very many columns, or beside a column that is there twice"
    df = table(path, column)
    if more=='more': df = df.join(pd.DataFrame(np.zeros((len(df),300)), columns=[f'c{i}' for i in range(300)]))
    if more=='twice': df = pd.concat([df, df[['label']]], axis=1)
    dls = ImageDataLoaders.from_df(df, path, fn_col=column, label_col=1, valid_col='valid', item_tfms=Resize(32), bs=8,
                                   num_workers=0)
    learn = small_learner(dls)
    assert [image_files(dls)[i] for i in (0,-1)]==[f'{path}/{df.iloc[i,0]}' for i in (0,-1)]
    learn.fit_progressive(2, sizes=(16,32))
    assert len(learn.stage_history)==2
    bad = path/'gone.jpg'
    df.iloc[5,0] = 'gone.jpg'
    dls = ImageDataLoaders.from_df(df, path, fn_col=column, label_col=1, valid_col='valid', item_tfms=Resize(32), bs=8,
                                   num_workers=0)
    with pytest.raises(ValueError, match=f'{bad} cannot be read as an image'):
        small_learner(dls).fit_progressive(2, sizes=(16,32))

def changed(row):
    row['new'],row['size'] = 1,row['size']+1
    return f"{row['name']} {row['new']} {row['size']} {row.size} {len(row)}"

row_functions = [
    lambda r: r['name'], lambda r: r.path, lambda r: f'{r.name} {r.shape}', lambda r: str(r.to_dict()),
    lambda r: str(r.iloc[0]), lambda r: '/'.join(r[['name','path']]), lambda r: r.get('path'),
    lambda r: ' '.join(map(str, r)),
    lambda r: f"{'path' in r} {isinstance(r, pd.Series)} {r.index.tolist()} {r.dtype}",
    lambda r: f"{r['size']:.2f} {r['n']/2}",
    lambda r: str(r.drop('n').size), lambda r: f'{dict(r)}', lambda r: r.copy()['name'], changed,
    lambda r: r.at['path'],
    lambda r: f"{pd.isna(r['void'])} {pd.isna(r.void)} {r.isna().sum()}", lambda r: str(r.when.year),
]
columns_read = [ColReader('id', suff='.jpg'), ColReader(0, suff='.jpg'), ColReader('id', pref=Path('a')),
                ColReader('size', pref='b')]

def test_rows_are_fastais(path):
    "What is made of a row is what fastai makes of it"
    n = 1003
    numbers = pd.DataFrame(dict(id=np.arange(n), size=np.arange(n)*.5))
    mixed = numbers.rename(columns=dict(id='n')).assign(
        name=[f'a{i}.jpg' for i in range(n)], path=[f'd/{i}' for i in range(n)], when=pd.to_datetime(['2024-02-03']*n),
        void=[None if i%2 else 'x' for i in range(n)]).set_index(np.arange(n)[::-1])
    texts = mixed[['name','path']]
    cases = [*((numbers,f) for f in columns_read), *((mixed,f) for f in row_functions), (texts,row_functions[0]),
             (texts,row_functions[5]), (mixed,ColReader('path')), (mixed,ColReader(1, 'p')),
             (mixed,[ColReader('size'),lambda o: f'{o:.1f}'])]
    for df,fs in cases:
        tl = TfmdLists(df, [*L(fs),PILImage.create], do_setup=False)
        want = [str(compose_tfms(df.iloc[i].copy(), tl.tfms.fs[:-1])) for i in range(0, n, 17)]
        got = dataset_files(tl)
        assert len(got)==n and got[::17]==want
    assert list(mixed.columns)==['n','size','name','path','when','void']      # rows are copies

# masks, second images, huge ones

blocks = dict(
    mask   = (ImageBlock, MaskBlock(codes=['no','yes'])),
    grey   = (ImageBlock, ImageBlock(PILImageBW)),
    second = (ImageBlock, ImageBlock, CategoryBlock),
)

@pytest.fixture
def pairs(tmp_path):
    "Twelve images, with another of each in a folder beside them"
    for name in ('images','others'): (tmp_path/name).mkdir()
    rng = np.random.RandomState(0)
    for i in range(12):
        Image.fromarray(rng.randint(0, 255, (40,40,3), dtype=np.uint8)).save(tmp_path/f'images/{i:02}.jpg', quality=95)
        Image.fromarray(rng.randint(0, 2, (40,40), dtype=np.uint8)).save(tmp_path/f'others/{i:02}.png')
    return tmp_path

def other(f): return f.parent.parent/'others'/f'{f.stem}.png'

def first_label(f): return 'ab'[int(f.stem)%2]

def pair_block(kind, **kwargs):
    get = dict(get_x=[noop,other], get_y=first_label, n_inp=2) if kind=='second' else dict(get_y=other)
    return DataBlock(blocks[kind], get_items=sorted_files, splitter=IndexSplitter([0,1,2,3]), **get, **kwargs)

def sorted_files(d): return get_image_files(d).sorted()

def pair_learner(dls, cbs=None):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
        def forward(self, x, *rest): return self.conv(x)
    def loss(pred, *targets): return pred.mean()**2
    return Learner(dls, Model(), loss_func=loss, cbs=cbs)

def cut(f): f.write_bytes(f.read_bytes()[:200])

damages = dict(cut=cut, gone=lambda f: f.unlink(), empty=lambda f: f.write_bytes(b''))

@pytest.mark.parametrize('damage', damages)
@pytest.mark.parametrize('kind', blocks)
def test_all_parts_are_checked(pairs, kind, damage):
    "Named before the first batch, whichever part is read from it; `verify` finds it, and skips the item"
    dls = pair_block(kind, item_tfms=Resize(32)).dataloaders(pairs/'images', bs=4, num_workers=0)
    learn,bad = pair_learner(dls, Untrained()),pairs/'others/07.png'
    assert {str(f) for f in [*get_image_files(pairs/'images'),*get_image_files(pairs/'others')]}==set(image_files(dls))
    damages[damage](bad)
    for fast in (True,False):
        with refused(learn, f'{bad} cannot be read as an image'): learn.fit_progressive(2, sizes=(16,32), fast=fast)
    def _get(verify):
        return get_dls(16, 4, pairs/'images', num_workers=0, dblock=pair_block(kind), verify=verify, stats=None)
    with pytest.raises(ValueError, match=f'{bad} cannot be read as an image'): _get(True)
    with pytest.warns(UserWarning, match=f'1 of 24 images .* such as {bad}'): dls = _get('skip')
    assert [[int(f.stem) for f in o.items] for o in dls.loaders]==[[4,5,6,8,9,10,11],[0,1,2,3]]
    assert [len(b[0]) for o in dls.loaders for b in o]==[4,4]

def break_inside(f):
    "Damage where only decoding finds it"
    data = bytearray(f.read_bytes())
    i = data.index(b'IDAT')+20
    data[i:i+20] = bytes(20)
    f.write_bytes(data)

@pytest.mark.parametrize('kind', blocks)
@pytest.mark.parametrize('num_workers', (0,2))
@pytest.mark.every(5)
def test_all_parts_are_named(pairs, kind, num_workers):
    "Damage inside a file is found by training, which names it"
    bad = pairs/'others/07.png'
    break_inside(bad)
    dls = pair_block(kind, item_tfms=Resize(32)).dataloaders(pairs/'images', bs=4, num_workers=num_workers)
    assert find_faults([bad])=={} and str(bad) in find_faults([bad], whole=True)
    with pytest.raises(ValueError, match=f'{bad} cannot be read as an image'):
        pair_learner(dls).fit_progressive(2, sizes=(16,32))

def test_verify_tables(path):
    "Of a table, by a column or a function of its rows"
    bad = path/'gone.jpg'
    for get_x in (ColReader('class', pref=f'{path}/'), lambda r: f"{path}/{r['class']}"):
        df = table(path, 'class')
        df.iloc[5,0] = 'gone.jpg'
        block = DataBlock((ImageBlock,CategoryBlock), get_x=get_x, get_y=ColReader('label'),
                          splitter=ColSplitter('valid'))
        make = partial(get_dls, 16, 4, df, dblock=block, num_workers=0)
        with pytest.raises(ValueError, match=f'{bad} cannot be read as an image'): make(verify=True)
        with pytest.warns(UserWarning, match=f'1 of 34 images .* such as {bad}'): dls = make(verify='skip')
        assert len(dls.train_ds)+len(dls.valid_ds)==33 and str(bad) not in image_files(dls)
        assert len(dls.train.one_batch()[0])==4

@pytest.mark.parametrize('name', ('a.jpg','a.png'))
def test_too_many_pixels(path, tmp_path, monkeypatch, name):
    "More than Pillow opens: found by the header, before the first batch"
    shutil.copytree(path, tmp_path/'d')
    huge = tmp_path/'d/train/A'/name
    Image.new('RGB', (400,300)).save(huge)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50_000)
    loads = []
    with replaced.object(Image.Image, 'load', lambda im: loads.append(im)):
        found = find_faults(get_image_files(tmp_path/'d'))
    assert list(found)==[str(huge)] and 'Image size (120000 pixels) exceeds limit of 100000 pixels' in found[str(huge)]
    assert not loads                   # only headers are read
    dls = ImageDataLoaders.from_folder(tmp_path/'d', valid='val', item_tfms=Resize(32), bs=8, num_workers=0)
    learn = small_learner(dls)
    with refused(learn, f'{huge} cannot be read as an image: Image size (120000 pixels)'):
        learn.fit_progressive(2, sizes=(16,32))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 60_000)      # up to twice that, Pillow warns
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        assert find_faults(get_image_files(tmp_path/'d'))=={}
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert find_faults(get_image_files(tmp_path/'d'))=={}

def test_threads_where_files_are_waited_for(path, tmp_path, monkeypatch):
    "As on a network; faults in the first files and in later ones are found"
    from fastai_progresize.load import files
    seen,look = set(),files._look
    def _look(f):
        time.sleep(.002)
        seen.add(threading.get_ident())
        return look(f)
    monkeypatch.setattr(files, '_look', _look)
    good,bad = list(get_image_files(path))*10,[tmp_path/f'{i}.png' for i in range(2)]
    for o in bad: o.write_bytes(b'')
    assert list(find_faults([bad[0], *good[:250], bad[1]]))==list(map(str, bad))
    assert len(seen)>1
