"The sample images: the layout of Imagenette, the same for a seed, whole or not there"
import hashlib, pytest
from helpers import *
from fastai_progresize import samples
from fastai_progresize.samples import glyph_fonts

def digest(path):
    files = get_image_files(path).sorted()
    return [(str(f.relative_to(path)), hashlib.md5(f.read_bytes()).hexdigest()) for f in files]

def test_same_for_a_seed(tmp_path):
    a,b,c = (glyphs(20, 10, seed=s, path=tmp_path/d) for s,d in ((1,'a'),(1,'b'),(2,'c')))
    assert digest(a)==digest(b)!=digest(c)
    assert glyphs(20, 10, seed=1, path=tmp_path/'a')==a

def test_layout(path):
    assert [o.name for o in path.ls().sorted()]==['train','val']
    for part,n in (('train',24),('val',10)):
        files = get_image_files(path/part)
        assert len(files)==n and {o.parent.name for o in files}==set('ABCDEFGHIJ')
        assert {o.suffix for o in files}=={'.jpg'}
    sizes = [Image.open(o).size for o in get_image_files(path)]
    assert all(160<=o<=320 for s in sizes for o in s) and any(w!=h for w,h in sizes)

def test_whole_or_not_there(tmp_path, monkeypatch):
    n,draw = 0,samples.draw_glyph
    def fail(*args):
        nonlocal n
        n += 1
        if n>5: raise KeyboardInterrupt
        return draw(*args)
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

@pytest.mark.long
def test_resolution_matters():
    "A model that saw only the first size scores clearly lower than one at the final size, trained for as many epochs"
    from fastai_progresize.cli import folder_learner
    acc = {}
    for size in (40,64):
        set_seed(42)
        learn = folder_learner(get_dls(size, 32, glyphs(), do_flip=False, mult=0, max_zoom=1.), widen=0.25)
        learn.fit_progressive(8, size, lr_max=8e-3)
        acc[size] = learn.stage_history.accuracy.iloc[-1]
    assert acc[40]<acc[64]-.05
