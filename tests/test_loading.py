"What fast loading must not change: which part of an image is seen, how it is augmented, what the other data are"
import errno, gc, io, shutil, weakref
import pytest
from hypothesis import given, settings, strategies as st
from PIL import ExifTags
from torchcodec.decoders import decode_jpeg as torchcodec_jpeg
from helpers import *
from fastai_progresize.load import cache as copies, read
from fastai_progresize.load.cache import JpegCopies
from fastai_progresize.load.augment import AffineOnce, Presize, crop_zoom, one_interpolation
from fastai_progresize.load.pixels import image_planes
from fastai_progresize.load.read import (ScaledImage, ScaledImageBW, ScaledToTensor, decode_image, decode_planes,
                                         read_scaled)

@pytest.fixture(scope='module')
def places(tmp_path_factory):
    "A JPEG whose colours say where a pixel is: red from left to right, green from top to bottom"
    d = tmp_path_factory.mktemp('places')
    x,y = np.meshgrid(np.linspace(0,255,1000), np.linspace(0,255,700))
    im = Image.fromarray(np.stack([x,y,np.full_like(x, 128)], 2).round().astype(np.uint8))
    im.save(d/'a.jpg', quality=98, subsampling=0)
    im.save(d/'a.png')
    im.convert('L').save(d/'grey.jpg', quality=98)
    im.convert('CMYK').save(d/'cmyk.jpg', quality=98)
    return d

def arr(im): return np.asarray(im).astype(int)

resizes = dict(
    crop=Resize(80),
    rectangle=Resize((60,110)),
    squish=Resize(80, ResizeMethod.Squish),
    pad=Resize(80, ResizeMethod.Pad),
    zeros=Resize((90,60), ResizeMethod.Pad, pad_mode=PadMode.Zeros),
    up=Resize(900),
    rrc=RandomResizedCrop(80),
    ratio=RatioResize(90),
    bicubic=Resize(80, resamples=(Image.BICUBIC,0)),
    lanczos=Resize(80, resamples=(Image.LANCZOS,0)),
    crop_pad=CropPad(80),
    presize=Presize(80, .9))

class Decoded:
    "What `ScaledImage`s decode while it is in use: size, factors, what was needed"
    def __enter__(self):
        self.seen,self.old,self.kept = [],ScaledImage.open_scaled,ScaledImage._crop_kept
        def spy(im, need=None):
            res,by = self.old(im, need)
            self.seen.append((tuple(res.size), by, need))
            return res,by
        def spy_kept(im, *args):
            res = self.kept(im, *args)
            if res is not None: self.seen.append((res.shape, im.kept.factors(im.kept.rows[str(im.fn)]), None))
            return res
        ScaledImage.open_scaled,ScaledImage._crop_kept = spy,spy_kept
        return self.seen
    def __exit__(self, *args): ScaledImage.open_scaled,ScaledImage._crop_kept = self.old,self.kept

def same_place(name, a, b, split_idx=None):
    "The same transform of both images, for most of the result away from padding"
    res = []
    for im in (a,b):
        set_seed(7)
        with Decoded() as seen: res.append(resizes[name](im, split_idx=split_idx))
    half = max((max(by)/2 for _,by,_ in seen), default=0)*255/700       # half a decoded pixel, in levels of the colours
    a,b = (F.pad(tensor(o).float(), (0,0,-3,-3,-3,-3)) for o in res)
    assert a.shape==b.shape
    padding = (a[...,2]<126) | (b[...,2]<126)       # elsewhere blue is 128
    inside = F.max_pool2d(padding.float()[None], 5, 1, 2)[0]==0
    assert inside.float().mean() > (.3 if name=='zeros' else .9)
    diff = (a-b)[inside]
    if name!='pad':                         # where it is reflected, the colours have a fold
        assert diff.abs().max()<=half+3, (diff.abs().max(), half)
    assert diff.mean(0).abs().max()<=half+.3
    return res[1]

@pytest.mark.parametrize('split_idx', (0,1))
@pytest.mark.parametrize('name', resizes)
def test_same_place(places, name, split_idx):
    "The pixels are from where they are without scaled decoding, to half a pixel of what was decoded"
    res = same_place(name, PILImage.create(places/'a.jpg'), ScaledImage.create(places/'a.jpg'), split_idx)
    assert (ScaledToTensor()(res)==image2tensor(res)).all()
    assert (ToTensor()(res)==image2tensor(res)).all()       # fastai's too takes what was read fast

@settings(deadline=None, max_examples=60)
@given(w=st.integers(60,900), h=st.integers(60,900), size=st.tuples(st.integers(20,200), st.integers(20,200)),
       seed=st.integers(0,99))
def test_never_less_than_needed(tmp_path_factory, w, h, size, seed):
    "A crop is decoded with as many pixels as its result if there are, and with less than twice as many if possible"
    fn = tmp_path_factory.getbasetemp()/'need.jpg'
    Image.new('RGB', (w,h)).save(fn)
    random.seed(seed)
    with Decoded() as seen: res = Resize(size)(ScaledImage.create(fn), split_idx=0)
    assert res.size==size[::-1]
    (got,by,need), = seen
    m = min(w/size[1], h/size[0])
    assert all(g>=o/b for g,o,b in zip(got, (w,h), by))
    assert max(by)==1 or m/max(by)>.96, (m, by)
    assert max(by)==8 or m/max(by)<2.2

def test_other_images(places):
    "Other formats, sources and modes are read as fastai reads them"
    png = places/'a.png'
    for o in (png, str(png), png.read_bytes(), arr(Image.open(png)).astype(np.uint8), Image.open(png).convert('RGB')):
        assert (arr(ScaledImage.create(o))==arr(PILImage.create(o))).all()
    for f in ('a.jpg','grey.jpg','cmyk.jpg'):
        for new,old in ((ScaledImage,PILImage),(ScaledImageBW,PILImageBW)):
            a,b = new.create(places/f),old.create(places/f)
            assert a.size==b.size and a.mode==b.mode and (arr(a)==arr(b)).all()
            assert a._tensor_cls is b._tensor_cls
            a,b = (Resize(64)(o.create(places/f), split_idx=1) for o in (new,old))
            assert a.mode==b.mode and abs(arr(a)-arr(b)).max()<=6
            x,y = ScaledToTensor()(a),ToTensor()(b)
            assert type(x) is type(y) and x.shape==y.shape
            assert type(ToTensor()(a)) is type(y) and ToTensor()(a).shape==y.shape

def test_used_twice(places):
    im = ScaledImage.create(places/'a.jpg')
    a = Resize(64)(im, split_idx=1)
    assert (arr(Resize(64)(im, split_idx=1))==arr(a)).all() and im.size==(1000,700)
    assert (arr(im)==arr(PILImage.create(places/'a.jpg'))).all()
    assert Resize(64)(im.copy(), split_idx=1).size==(64,64)

def test_damaged_is_named(path, tmp_path):
    "A file that breaks where the checks do not look is named when training meets it"
    new = tmp_path/'data'
    shutil.copytree(path, new)
    bad = sorted((new/'train').rglob('*.jpg'))[3]
    data = bytearray(bad.read_bytes())
    i = data.index(b'\xff\xc4')                       # the table of the code
    data[i+5:i+21] = b'\xff'*16
    bad.write_bytes(data)
    for w in (0,2):
        learn = small_learner(get_dls(48, 8, new, num_workers=w).at_size(48).fast())
        with pytest.raises(ValueError, match=bad.name): learn.fit_progressive(2, sizes=(16,48))

def test_masks_are_not_scaled(places):
    class Mask(PILMask): pass
    mask = arr(Image.open(places/'a.png'))[...,0]>128
    Image.fromarray(mask.astype(np.uint8)).save(places/'mask.png')
    ds = Datasets([places/'a.jpg'], [[PILImage.create],[lambda o: places/'mask.png', PILMask.create]])
    new = read_scaled(ds)
    assert type(new[0][0]) is ScaledImage and type(new[0][1]) is PILMask
    assert new.tls[1].tfms.fs==ds.tls[1].tfms.fs and type(ds[0][0]) is PILImage

# what the model sees

def where(h, w, hw):
    "An image whose channels are the coordinates x, y, x"
    y,x = torch.meshgrid(torch.linspace(-hw[0],hw[0],h), torch.linspace(-hw[1],hw[1],w), indexing='ij')
    return torch.stack([x,y,x])

def box(b, hw):
    "Centre, scale, angle, aspect, handedness and perspective of what images of coordinates show"
    h,w = b.shape[-2:]
    c = b[:,:2,h//4:3*h//4,w//4:3*w//4].as_subclass(Tensor)     # the middle, where hardly anything is reflected
    dx = (c[...,-1]-c[...,0]).mean(2)*w/(c.shape[3]-1)/hw[1]
    dy = (c[...,-1,:]-c[...,0,:]).mean(2)*h/(c.shape[2]-1)/hw[0]
    det = dx[:,0]*dy[:,1]-dx[:,1]*dy[:,0]
    sx,sy = dx.norm(dim=1),dy.norm(dim=1)
    left,right = (b[:,1,h//4:3*h//4,o].as_subclass(Tensor) for o in (w//4,3*w//4))
    perspective = ((right[:,-1]-right[:,0])/(left[:,-1]-left[:,0])).log()
    x,y = c[:,0].mean((1,2)),c[:,1].mean((1,2))
    angle,scale = (dx[:,1]/sx)*det.sign(),(det.abs().sqrt()).log()
    return torch.stack([x, y, scale, angle, (sx/sy).log(), det.sign(), perspective], 1)

def boxes(make, n, size, hw=(1,1)):
    "`box` of `n` images, in batches of 16"
    res = []
    for _ in range(n//16):
        tfms,side = make()
        b = TensorImage(where(side*hw[0], side*hw[1], hw)[None].expand(16,-1,-1,-1).clone())
        for t in tfms: b = t(b, split_idx=0)
        res.append(box(b, hw))
    return torch.cat(res)

def of_shape(tfms, hw):
    "`aug_transforms` whose crops have the shape of the images"
    for t in tfms:
        if isinstance(t, RandomResizedCropGPU): t.ratio = (hw[1]/hw[0],)*2
    return tfms

@pytest.mark.parametrize('hw', ((1,1),(2,3)))
@pytest.mark.every(2)
def test_same_distribution(hw):
    "What the book's two interpolations show, and our one: means and spreads of all that is drawn agree within errors"
    size = (24*hw[0],24*hw[1])
    set_seed(3)
    def book(): return of_shape(aug_transforms(size=size, min_scale=.5, max_lighting=0), hw),100
    item,ours = one_interpolation([Resize(tuple(66*o for o in hw))], book()[0], size)
    assert len(ours)==1 and isinstance(ours[0], AffineOnce)
    n = 2400
    a,b = boxes(book, n, size, hw),boxes(lambda: (ours,42), n, size, hw)
    per_batch = a.view(-1,16,7).var(1).mean(0)<.95*a.var(0)        # the book draws one crop for a batch of 16
    eff = torch.where(per_batch, n/16, n)
    # .01: the book's crops are whole pixels
    diff = ((a.mean(0)-b.mean(0)).abs()-.01)/(a.var(0)/eff + b.var(0)/n).sqrt()
    assert diff.max()<4, diff
    spread = (a.std(0)/b.std(0)-1).abs()
    assert spread.max()<.2, spread

def test_one_crop_an_image():
    t = AffineOnce(crop_zoom(.3, size=32), 32)
    t(TensorImage(torch.rand(8,3,40,40)), split_idx=0)
    assert len(t.mat[:,0,0].unique())==8
    t = AffineOnce(crop_zoom(.3, size=32, batch=True), 32)
    t(TensorImage(torch.rand(8,3,40,40)), split_idx=0)
    assert len(t.mat[:,0,0].unique())==1

crop_args = ('mode','pad_mode','align_corners')

@pytest.mark.parametrize('kw', [dict(), dict(align_corners=False), dict(pad_mode=PadMode.Zeros), dict(max_warp=0),
                                dict(mode='bicubic'), dict(flip_vert=True)], ids=str)
@pytest.mark.parametrize('shape', ((48,48),(40,60)))
@pytest.mark.parametrize('split_idx', (0,1))
def test_once_is_affine(kw, shape, split_idx):
    "`AffineOnce` gives what the transforms that it is made from give, of smooth images, masks and points"
    size = tuple(o*3//4 for o in shape)
    crop = crop_zoom(.6, size=size, **{k:v for k,v in kw.items() if k in crop_args})
    t = aug_transforms(size=size, max_lighting=0, xtra_tfms=crop, **kw)[0]
    y,x = torch.meshgrid(*(torch.linspace(0,1,o) for o in shape), indexing='ij')
    img = TensorImage(torch.stack([x,y,x*y])[None].expand(6,-1,-1,-1).clone())
    msk = TensorMask((x>.5).long()[None].expand(6,-1,-1).clone())
    pts = TensorPoint(torch.rand(6,5,2)*1.6-.8, img_size=shape)
    res = []
    for o in (t,AffineOnce(t, size)):
        set_seed(1)
        res.append(o((img,msk,pts), split_idx=split_idx))
    (a,am,ap),(b,bm,bp) = res
    assert type(b) is TensorImage and a.shape==b.shape==(6,3,*size)
    assert (a-b).abs().mean()<1e-4
    assert (am==bm).all() and torch.equal(ap, bp)

def test_large_presize_is_averaged():
    "From more than twice the size, fastai averages before it interpolates; so do we"
    t,x = aug_transforms(size=32, max_lighting=0)[0],TensorImage(torch.rand(4,3,160,160))
    res = []
    for o in (t,AffineOnce(t, 32)):
        set_seed(1)
        res.append(o(x, split_idx=0))
    assert (res[0]-res[1]).abs().max()<1e-2 and res[1].std()<.2

def test_left_alone():
    "Transforms of another kind are not touched"
    R,C = Resize(80),RandomResizedCropGPU
    for item,batch in [
        ([Resize(80, ResizeMethod.Pad)], aug_transforms(size=64)),
        ([R], aug_transforms()),
        ([R], [C(64)]),
        ([R], [C(64, ratio=(1,1), valid_scale=.8)]),
        ([R, RandomCrop(64)], aug_transforms(size=64)),
        ([Resize((80,100))], aug_transforms(size=64, min_scale=.5)),
        ([R], aug_transforms(size=64, mode='bicubic')),
        ([RandomResizedCrop(80)], aug_transforms(size=64)),
        ([R], [*aug_transforms(size=64), C(48, ratio=(1,1))]),
    ]: assert one_interpolation(item, batch, 48) is None
    assert type(one_interpolation([R], [C(64, ratio=(1,1))], 48)[1][0]) is AffineOnce

def test_fastai_works_as_usual(path, tmp_path):
    "tta, predict, show_batch, get_preds of new files, export"
    learn = small_learner(get_dls(48, 8, path, num_workers=0).at_size(48).fast())
    learn.fit_progressive(2, sizes=(32,48))
    x = [learn.tta(n=2)[0], learn.get_preds()[0]]
    assert x[0].shape==x[1].shape==(10,10)
    learn.dls.show_batch(max_n=2)
    learn.show_results(max_n=2)
    fn = get_image_files(path)[0]
    a,b = learn.predict(fn)[2],learn.predict(PILImage.create(fn))[2]
    assert (a-b).abs().max()<.02
    assert learn.get_preds(dl=learn.dls.test_dl([fn, str(fn)]))[0].shape==(2,10)
    learn.export(tmp_path/'a.pkl')
    assert (load_learner(tmp_path/'a.pkl').predict(fn)[2]-a).abs().max()<.02  # with fastai's own transforms
    seen = learn.dls.valid.one_batch()[0]
    assert torch.equal(seen, learn.dls.valid.one_batch()[0])                  # nothing random in validation

# presized copies

@pytest.fixture
def photos(tmp_path, places):
    d = tmp_path/'photos'
    d.mkdir()
    for i in range(3): shutil.copy(places/'a.jpg', d/f'{i}.jpg')
    shutil.copy(places/'a.png', d/'b.png')
    return d

def state(d): return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(d.iterdir())}

def test_copies(photos, tmp_path):
    "One of each, made once; sources stay as they are; a changed or new source is seen"
    before = state(photos)
    cache = presize_images(photos, 100, tmp_path/'c', progress=False)
    copies = state(cache)
    assert len(copies)==4 and state(photos)==before
    assert presize_images(photos, 100, tmp_path/'c', progress=False)==cache and state(cache)==copies
    assert all(Image.open(f).size==(143,100) for f in cache.iterdir())
    Image.open(photos/'0.jpg').rotate(180).save(photos/'0.jpg', quality=98)
    kept = JpegCopies(cache, 100)
    a,b = (arr(Resize(80)(ScaledImage.create(photos/o, cache=kept), split_idx=1)) for o in ('0.jpg','1.jpg'))
    assert abs(a-b[::-1,::-1]).mean()<3 and abs(a-b).mean()>30
    presize_images(photos, 100, tmp_path/'c', progress=False)
    assert len(state(cache))==5 and presize_images(photos, 120, tmp_path/'c', progress=False)!=cache

def test_copies_of_repeated_files(photos, tmp_path, monkeypatch):
    "Items that are listed several times are looked at once"
    seen,real = [],copies.presized_file
    monkeypatch.setattr(copies, 'presized_file', lambda fn, cache: seen.append(fn) or real(fn, cache))
    files = get_image_files(photos)
    presize_images(files*3, 100, tmp_path/'c', progress=False)
    assert sorted(seen)==sorted(files)

@pytest.mark.parametrize('name', resizes)
def test_same_place_from_copy(photos, tmp_path, name):
    cache = JpegCopies(presize_images(photos, 120, tmp_path/'c', progress=False), 120)
    for f in ('1.jpg','b.png'):
        a,b = (ScaledImage.create(photos/f, cache=c) for c in (None,cache))
        assert a.size==b.size==(1000,700)
        same_place(name, a, b, 0)

def test_small_images_have_no_copies(photos, tmp_path):
    assert list(presize_images(photos, 700, tmp_path/'c', progress=False).iterdir())==[]

no_space = OSError(errno.ENOSPC, 'No space left on device')

@pytest.mark.parametrize('e,what', [(no_space, 'No space left.*pass another folder'), (KeyboardInterrupt(), None)])
def test_copies_whole_or_absent(photos, tmp_path, monkeypatch, e, what):
    "An interrupt or a full disk leaves no half copy, and what is whole is kept"
    save = Image.Image.save
    def some(self, fp, *args, **kwargs):
        save(self, fp, *args, **kwargs)
        if len(list((tmp_path/'c'/'100').glob('*.jpg'))):
            fp.truncate(100)
            raise e
    monkeypatch.setattr(Image.Image, 'save', some)
    with pytest.raises(type(e), match=what):
        presize_images(photos, 100, tmp_path/'c', n_workers=1, progress=False)
    monkeypatch.undo()
    left = list((tmp_path/'c'/'100').iterdir())
    assert len(left)==1 and Image.open(left[0]).size==(143,100)
    assert len(state(presize_images(photos, 100, tmp_path/'c', progress=False)))==4

def test_copies_bad_input(photos, tmp_path):
    (photos/'0.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match="0.jpg cannot be read as an image: "):
        presize_images(photos, 100, tmp_path/'c', progress=False)
    for o in (0,-1,1.5,None):
        with pytest.raises(ValueError, match='pass an int of at least 1'): presize_images(photos, o, tmp_path/'c')

def test_cache_in_get_dls(path, tmp_path):
    "The same items, labels and split; loading from copies; at a larger size from the originals"
    a,b = (get_dls(32, 8, path, num_workers=0, cache=c) for c in (False,tmp_path/'c'))
    assert a.train.items==b.train.items and a.valid.items==b.valid.items and a.vocab==b.vocab
    copies = list((tmp_path/'c').rglob('*.jpg'))
    assert len(copies)==34
    x,y = (o.valid.one_batch()[0] for o in (a,b))
    assert (x-y).abs().mean()<.1 and not torch.equal(x, y)
    for f in copies: f.unlink()
    a.valid.after_item.presize.keep = 1.                     # as with copies
    assert torch.equal(b.valid.one_batch()[0], a.valid.one_batch()[0])       # without them the originals are read
    learn = small_learner(b)
    learn.fit_progressive(2, sizes=(16,32), get_dls=partial(get_dls, path=path, num_workers=0, cache=tmp_path/'c'))
    assert len(learn.stage_history)==2

# memory

class Watch(Callback):
    "References to the data of each stage, and to their workers"
    order = 100
    def before_fit(self): self.refs = []
    def before_batch(self):
        if not self.refs or self.refs[-1]() is not self.dls.train:
            self.refs.append(weakref.ref(self.dls.train))

@pytest.mark.parametrize('num_workers', (0,2))
@pytest.mark.every(2)
def test_stages_are_let_go(path, num_workers):
    "No stage keeps another's loaders or batches"
    learn = small_learner(get_dls(48, 8, path, num_workers=num_workers), cbs=Watch)
    n,alive = 6,[]
    class Count(Callback):
        order = 101
        def after_epoch(self):
            gc.collect()
            alive.append(sum(o() is not None for o in self.watch.refs))
    learn.fit_progressive([Stage(s, 1, fit='fit_one_cycle', lr=1e-3) for s in (16,32,48)*2], cbs=Count())
    assert len(learn.watch.refs)>=n and max(alive)<=2, alive
    import multiprocessing
    assert not multiprocessing.active_children()

# torchcodec decodes what has its own size

turned = Image.Exif()
turned[ExifTags.Base.Orientation] = 6
kinds_of_jpeg = dict(usual={}, low=dict(quality=5), full_colour=dict(quality=95, subsampling=0),
                     progressive=dict(progressive=True), half_colour=dict(subsampling=1), restarts=dict(restart_marker_rows=1),
                     turned=dict(exif=turned))

def photo(w, h, mode='RGB'):
    y,x = np.mgrid[:h,:w]
    noise = np.random.RandomState(0).randint(0, 60, (h,w,3))
    return Image.fromarray((np.stack([x*255//w, y*255//h, 128+0*x], 2)*3//4+noise).astype(np.uint8)).convert(mode)

def both_planes(fn, mode):
    "What Pillow makes of a JPEG, and what `decode_planes` does: planes, or the error"
    res = []
    for f in (lambda o: image_planes(decode_image(o, mode)), lambda o: decode_planes(o, mode)):
        try: res.append(f(read._open_jpeg(copy(fn))))
        except Exception as e: res.append(f'{type(e).__name__}: {e}')
    return res

def same_planes(a, b): return a==b if isinstance(a, str) or isinstance(b, str) else torch.equal(a, b)

@pytest.mark.parametrize('size', [(1,1),(17,9),(64,48),(501,375)])
@pytest.mark.parametrize('mode', ['RGB','L','CMYK'])
@pytest.mark.parametrize('kind', kinds_of_jpeg)
def test_planes_as_pillow(tmp_path, kind, mode, size):
    photo(*size, mode).save(tmp_path/'a.jpg', **kinds_of_jpeg[kind])
    for to in ('RGB','L'):
        a,b = both_planes(tmp_path/'a.jpg', to)
        assert torch.equal(a, b) and b.shape==(len(to),*size[::-1])

@pytest.mark.parametrize('kind,installed,n', [('usual',True,1),('turned',True,0),('usual',False,0)])
def test_planes_by_torchcodec(tmp_path, monkeypatch, kind, installed, n):
    "What torchcodec decodes, and what Pillow does with it or without"
    calls = []
    def _decode(*args, **kwargs):
        calls.append(args)
        return torchcodec_jpeg(*args, **kwargs)
    monkeypatch.setattr(read, 'decode_jpeg', _decode if installed else None)
    photo(64, 48).save(tmp_path/'a.jpg', **kinds_of_jpeg[kind])
    a,b = both_planes(tmp_path/'a.jpg', 'RGB')
    assert torch.equal(a, b) and len(calls)==n

def test_planes_of_copies(tmp_path):
    data = io.BytesIO()
    photo(64, 48).save(data, 'JPEG')
    a,b = both_planes(io.BytesIO(data.getvalue()+b'seal'), 'RGB')
    assert torch.equal(a, b)

def test_planes_of_damaged_files(tmp_path):
    "Cut off anywhere, or with any bit flipped: Pillow's pixels or Pillow's error"
    fn = tmp_path/'a.jpg'
    photo(64, 48).save(fn)
    whole,rng,n_errors = fn.read_bytes(),random.Random(0),0
    for i in range(300):
        data,at = bytearray(whole),rng.randrange(20, len(whole))
        if i%3: data[at] ^= 1<<rng.randrange(8)
        else: data = data[:at]
        fn.write_bytes(data)
        a,b = both_planes(fn, 'RGB')
        assert same_planes(a, b), (i, at, a, b)
        n_errors += isinstance(a, str)
    assert 0<n_errors<300

# items without pipelines

def is_first_class(o): return parent_label(o)=='A'

def skip_some(o):
    if int(o.stem[-1])%4==1: raise SkipItemException
    return parent_label(o)

def path_in_row(r): return r['name']

at_once = dict(
    usual=dict(), grey=dict(blocks=(ImageBlock(PILImageBW),CategoryBlock)),
    regression=dict(blocks=(ImageBlock,RegressionBlock), get_y=is_first_class),
    several=dict(blocks=(ImageBlock,CategoryBlock,RegressionBlock), get_y=[parent_label,is_first_class], n_inp=1),
    skipped=dict(blocks=(ImageBlock,CategoryBlock(list('ABCDEFGHIJ'))), get_y=skip_some),
    presize=dict(item_tfms=Presize(40, .9)), bicubic=dict(item_tfms=Resize((40,24), resamples=(Image.BICUBIC,0))),
    lanczos=dict(item_tfms=Resize(24, resamples=(Image.LANCZOS,0))), large=dict(item_tfms=Resize(200)),
    tiny=dict(item_tfms=Resize(12)), rows=dict(get_items=None, get_x=path_in_row, get_y=ColReader('label')))

@pytest.mark.parametrize('workers', [0,2])
@pytest.mark.parametrize('kind', at_once)
@pytest.mark.every(3)
def test_items_at_once(path, tmp_path, kind, workers):
    "What fastai's pipelines make of JPEGs, PNGs and thin images, in training and validation, with the same draws"
    files = get_image_files(path).sorted()
    for i,f in enumerate(files):
        im = PILImage.create(f)
        im = im.resize([(48,60),(70,40),(14,90)][i%3]) if i%2 else im
        dest = tmp_path/f.parent.name/f'{i}.{"png" if i%5==0 else "jpg"}'
        dest.parent.mkdir(exist_ok=True)
        im.save(dest)
    files = get_image_files(tmp_path).sorted()
    args = dict(blocks=(ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=Resize(40),
                splitter=RandomSplitter(seed=1)) | at_once[kind]
    source = pd.DataFrame(dict(name=files.map(str), label=files.map(parent_label))) if kind=='rows' else tmp_path
    dls = DataBlock(**args).dataloaders(source, bs=4, num_workers=workers).fast()
    for dl in dls.loaders:
        plain = dl.new()
        assert 'create_batches' in vars(dl) and 'create_batches' not in vars(plain)
        res = []
        for o in (dl,plain):
            set_seed(3)
            o.rng = random.Random(3)
            res.append(list(o))
        assert len(res[0])==len(res[1])>0
        for x,y in zip(*res):
            assert list(map(type, x))==list(map(type, y)) and all(torch.equal(a, b) for a,b in zip(x, y))

# nothing is warned of

strict = """
import sys, warnings
from fastai.vision.all import *
from fastai_progresize.all import *
dls = ImageDataLoaders.from_folder(sys.argv[1], valid='val', item_tfms=Resize(32), bs=8, num_workers=int(sys.argv[2]))
learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(3, 10)), metrics=accuracy)
warnings.simplefilter('error')
for o in ({}, dict(cache='c'), dict(cache='d', decoded=True)): learn.fit_progressive(2, fast=o)
print(len(learn.stage_history), learn.stage_history.accuracy.notna().all())"""

@pytest.mark.parametrize('n_workers', [0,1])
@pytest.mark.every(2)
def test_nothing_is_warned_of(path, tmp_path, n_workers):
    "The first image that is read, the first copy that is made: no function is called that its library warns of"
    assert in_python(strict, tmp_path, path, n_workers).splitlines()[-1]=='2 True'
