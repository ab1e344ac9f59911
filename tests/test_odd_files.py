"Files with odd names, in odd tables, and images that cannot be read in any part of a dataset"
import shutil
import pytest
from helpers import *
from fastai_progresize.files import dataset_files, image_files
from test_bad_input import refused

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
    changed = f"1 are new, such as {Path('train/J')/latin}"
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
learn.fit_progressive(1, sizes=(32,), checkpoint='c', resume=True)"""
    said = in_python(code, tmp_path, odd, tmp_path/os.fsdecode(b'm\xe9'))
    assert r'm\udce9/decoded' in said and r'There is no checkpoint in ' in said

# tables

odd_columns = ['_path','class','from','def']

def table(path, column):
    files = get_image_files(path).sorted()
    return pd.DataFrame({column:[str(o.relative_to(path)) for o in files], 'label':[o.parent.name for o in files],
                         'valid':['val' in o.parts for o in files]})

@pytest.mark.parametrize('column', odd_columns)
@pytest.mark.parametrize('more', (None,'more','twice'))
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
    lambda r: str(r.drop('n').size), lambda r: f'{dict(r)}', lambda r: r.copy()['name'], changed, lambda r: r.at['path'],
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
