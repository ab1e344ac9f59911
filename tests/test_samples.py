"The sample images: the layout of Imagenette, the same for a seed, whole or not there"
import hashlib, pytest, sys
from helpers import *
from fastai_progresize import samples
from fastai_progresize.samples import glyph_fonts

sys.path.insert(0, str(Path(__file__).parent.parent/'benchmarks'))
from elpv import elpv, elpv_table

def digest(path):
    files = get_image_files(path).sorted()
    return [(str(f.relative_to(path)), hashlib.md5(f.read_bytes()).hexdigest()) for f in files]

def test_same_for_a_seed(tmp_path):
    a,b,c = (glyphs(20, 10, seed=s, path=tmp_path/d) for s,d in ((1,'a'),(1,'b'),(2,'c')))
    assert digest(a)==digest(b)!=digest(c)
    assert glyphs(20, 10, seed=1, path=tmp_path/'a')==a

def test_layout(tmp_path):
    path = glyphs(24, 10, path=tmp_path)
    assert [o.name for o in path.ls().sorted()]==['train','val']
    for part,n in (('train',24),('val',10)):
        files = get_image_files(path/part)
        assert len(files)==n and {o.parent.name for o in files}==set('ABCDEFGHIJ')
        assert {o.suffix for o in files}=={'.jpg'}
    sizes = [Image.open(o).size for o in get_image_files(path)]
    assert all(160<=o<=320 for s in sizes for o in s) and any(w!=h for w,h in sizes)

def test_whole_or_not_there(tmp_path, monkeypatch):
    n,draw = 0,samples.draw_glyph
    def fail(*args, **kwargs):
        nonlocal n
        n += 1
        if n>5: raise KeyboardInterrupt
        return draw(*args, **kwargs)
    monkeypatch.setattr(samples, 'draw_glyph', fail)
    with pytest.raises(KeyboardInterrupt): glyphs(20, 10, path=tmp_path)
    assert list(tmp_path.iterdir())==[]
    monkeypatch.undo()
    assert len(get_image_files(glyphs(20, 10, path=tmp_path)))==30

def test_fonts():
    "Every font has every letter: ten different shapes"
    for f in glyph_fonts():
        font = samples.ImageFont.truetype(str(f), 40)
        assert len({bytes(font.getmask(o)) for o in samples.glyph_classes})==10

def test_scale(tmp_path):
    "Letters of another height are another dataset"
    a,b = glyphs(20, 10, path=tmp_path),glyphs(20, 10, path=tmp_path, scale=(.5,.6))
    assert a.name=='glyphs-20-10-42' and b.name=='glyphs-20-10-42-0.5-0.6' and digest(a)!=digest(b)

@pytest.fixture
def elpv_dataset(): pytest.importorskip('elpv_dataset')

def test_elpv(tmp_path, elpv_dataset):
    "Imagenette's layout, split alike by probability and kind, the same for a seed"
    path = elpv(path=tmp_path/'a')
    n = {(a,b): len((path/a/b).ls()) for a in ('train','val') for b in ('defective','functional')}
    assert n=={('train','defective'):616, ('train','functional'):1352,
               ('val','defective'):205, ('val','functional'):451}
    df = elpv_table().assign(name=lambda df: [o.name for o in df.file]).set_index('name')
    def _counts(part):
        own = df.loc[[o.name for o in get_image_files(path/part)]]
        assert ((own.probability>=.5)==(own.label=='defective')).all()
        return own.groupby(['probability','kind']).size()
    train,val = _counts('train'),_counts('val')
    assert ((val-(train+val)/4).abs()<=1).all() and len(val)==8
    assert Image.open(first(get_image_files(path))).size==(300,300)
    assert digest(path)==digest(elpv(path=tmp_path/'b'))!=digest(elpv(seed=1, path=tmp_path/'a'))

def test_elpv_whole_or_not_there(tmp_path, monkeypatch, elpv_dataset):
    n,copy = 0,shutil.copyfile
    def fail(*args):
        nonlocal n
        n += 1
        if n>5: raise OSError('No space left on device')
        return copy(*args)
    monkeypatch.setattr(shutil, 'copyfile', fail)
    with pytest.raises(OSError): elpv(path=tmp_path)
    assert list(tmp_path.iterdir())==[]

def test_elpv_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'elpv_dataset', None)
    says = re.escape("pip install elpv-dataset")
    with pytest.raises(ImportError, match=says): elpv(path=tmp_path)

def test_small_resnet():
    "One block at each size, half the last; any image size"
    model = samples.small_resnet(3, (8,16,24,32,40))
    assert [o.shape[1:] for o in hook_shapes(model)]==[(16,8,8),(24,4,4),(32,2,2),(40,1,1)]
    assert model(torch.randn(2,3,48,64)).shape==(2,3)

def hook_shapes(model):
    res,x = [],torch.randn(2,3,32,32)
    for m in model[:6]:
        x = m(x)
        if isinstance(m, ResBlock): res.append(x)
    return res

@pytest.mark.long
def test_resolution_matters():
    "A model that saw only the first size scores clearly lower than one at the final size, trained for as many epochs"
    from fastai_progresize.apps.folder import folder_learner
    acc = {}
    for size in (40,64):
        set_seed(42)
        learn = folder_learner(get_dls(size, 32, glyphs(), do_flip=False, mult=0, max_zoom=1.), widen=0.25)
        learn.fit_progressive(8, [size], lr_max=8e-3)
        acc[size] = learn.stage_history.accuracy.iloc[-1]
    assert acc[40]<acc[64]-.05
