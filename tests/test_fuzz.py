"Whatever is passed, and whatever is in a file: it trains, or it is named"
import io, shutil, warnings
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from helpers import *
from fastai_progresize.load.read import ScaledImage, ScaledToTensor

def draw_from(good, bad):
    "Most arguments are good, or hardly any call would be"
    return st.sampled_from(good*(15*len(bad)//len(good)+1) + bad)

def one_or_list(o): return st.one_of(o, st.lists(o, min_size=1, max_size=3))

size  = draw_from([16,20,24,(16,24)], [0,-8,20.5,'24',None,True,(16,),(16,16,16),[16,0]])
lr    = draw_from([None,1e-3,slice(1e-3),slice(1e-4,1e-3)],
                  [0,-1e-3,float('nan'),float('inf'),'1e-3',slice(None),slice(-1,1)])
bs    = draw_from([None,4,8,24], [0,-1,2.5,25,True,'8'])
count = draw_from([1,2], [0,-1,1.5,None,float('nan'),'2'])
fit   = draw_from([None,'fine_tune','fit_one_cycle'], ['single_cycle','fit',1])
freeze_epochs = draw_from([0,1], [-1,.5])
stage = st.fixed_dictionaries(dict(size=size, n_epoch=count),
                              optional=dict(bs=bs, lr=lr, fit=fit, freeze_epochs=freeze_epochs))

total    = draw_from([1,2,3], [0,-1,1.5,None,[],'3'])
of_total = draw_from([None,(16,24),(16,20,24),[24],24], [[],(24,16),(16,16),(0,16),'16',None])
of_list  = draw_from([(16,24),(16,20,24)], [None,[],(24,16)])
plan  = st.one_of(st.tuples(total, of_total),
                  st.tuples(st.lists(count, min_size=1, max_size=3), of_list),
                  st.tuples(st.lists(stage, min_size=1, max_size=3), draw_from([None], [(16,24)])))

args  = st.fixed_dictionaries({}, optional=dict(
    lr_max=one_or_list(lr),
    bs=one_or_list(bs),
    fit=draw_from(['fine_tune','fit_one_cycle','single_cycle'], [None,'fit',3]),
    valid_size=draw_from(['stage','final',None,16], ['last',0,1.5]),
    freeze_epochs=draw_from([0,1], [-1,1.5,None]),
    pct_start=draw_from([None,.3], [-.1,1.1,'.3',float('nan')]),
    div=draw_from([None,10], [0,-1,float('inf'),'10']),
    div_final=draw_from([None,1e3], [0,float('nan')]),
    lr_mult=draw_from([None,10], [0,-2]),
    wd=draw_from([None,.01], [-1,float('nan'),'a']),
    moms=draw_from([None,(.9,.8,.9)], [(.9,.8),(.9,.8,1.),5,'abc']),
    fast=draw_from([True,False,{}], [None,'yes',3]),
    get_dls=draw_from([None], [3,lambda size,bs: None,lambda: 1]),
    resume=draw_from([False], [True]),
    checkpoint=draw_from([None,'a'], [3,''])))

def as_stages(n_epoch):
    if not isinstance(n_epoch, list) or not n_epoch or not isinstance(n_epoch[0], dict): return n_epoch
    return [Stage(**o) for o in n_epoch]

def fuzzed(path, n):
    own = get_dls(24, 8, path, num_workers=0)
    trained = []
    @settings(max_examples=n, deadline=None, derandomize=n<100, database=None,
              suppress_health_check=list(HealthCheck))
    @given(plan, args)
    def check(plan, args):
        n_epoch,sizes = plan
        learn = small_learner(own, lr=1e-3)
        learn.path = Path(tempfile.mkdtemp())
        class Batches(Callback):
            n = 0
            def before_batch(self): Batches.n += 1
        learn.add_cb(Batches())
        with warnings.catch_warnings(), learn.no_bar(), learn.no_logging():
            before,cbs = weights(learn),list(learn.cbs)
            warnings.simplefilter('ignore')
            try:
                learn.fit_progressive(as_stages(n_epoch), sizes, **args)
            except ValueError as e:
                assert Batches.n==0 and same_weights(before, weights(learn)), e
                assert learn.dls is own and list(learn.cbs)==cbs and learn.stage_history.empty, e
                assert str(e).strip() and 'Exception occured' not in str(e)
                trained.append(0)
            else:
                assert len(learn.stage_history) and Batches.n>0
                assert np.isfinite(learn.stage_history.train_loss).all()
                trained.append(1)
        shutil.rmtree(learn.path)
    check()
    print(f'{sum(trained)} of {len(trained)} trained')
    assert 0<sum(trained)<len(trained)

def test_arguments(path): fuzzed(path, 50)

@pytest.mark.long
def test_arguments_long(path): fuzzed(path, 500)

def encoded(im, fmt, **kwargs):
    f = io.BytesIO()
    im.save(f, fmt, **kwargs)
    return f.getvalue()

def truncated(b, rng): return b[:rng.randrange(1, len(b))]

def flipped(b, rng):
    b = bytearray(b)
    for _ in range(rng.choice((1,4,32))): b[rng.randrange(len(b))] ^= 1<<rng.randrange(8)
    return bytes(b)

def turned(photo, fmt, rng):
    exif = Image.Exif()
    exif[274] = rng.randint(1, 8)
    return encoded(photo, fmt, exif=exif)

def deep(photo): return Image.fromarray((np.asarray(photo.convert('L')).astype(np.uint16)*257))

damaged = dict(
    truncated=lambda p,f,rng: truncated(encoded(p, f), rng),
    flipped=lambda p,f,rng: flipped(encoded(p, f), rng),
    zero=lambda p,f,rng: b'',
    text=lambda p,f,rng: b'<html>404</html>'*20)
unusual = dict(
    wrong=lambda p,f,rng: encoded(p, {'JPEG':'PNG','PNG':'JPEG'}[f]),
    other=lambda p,f,rng: encoded(p, 'BMP'),
    tiny=lambda p,f,rng: encoded(p.resize((1,1)), f),
    cmyk=lambda p,f,rng: encoded(p.convert('CMYK'), 'JPEG'),
    grey=lambda p,f,rng: encoded(p.convert('L'), f),
    deep=lambda p,f,rng: encoded(deep(p), 'PNG'),
    palette=lambda p,f,rng: encoded(p.quantize(16), 'PNG', transparency=3),
    alpha=lambda p,f,rng: encoded(p.convert('RGBA'), 'PNG'),
    turned=turned,
    animated=lambda p,f,rng: encoded(p, 'PNG', save_all=True, append_images=[p.rotate(9)]),
    progressive=lambda p,f,rng: encoded(p, 'JPEG', progressive=True),
    good=lambda p,f,rng: encoded(p, f))
kinds = {**damaged, **unusual}

def damaged_files(folder, n, seed):
    "`n` image files, most of them with something wrong or unusual"
    rng,res = random.Random(seed),[]
    noise = np.random.RandomState(seed).randint(0, 255, (40,50,3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((120,90), Image.BICUBIC)
    for i in range(n):
        kind,fmt = list(kinds)[i%len(kinds)],rng.choice(('JPEG','PNG'))
        file = folder/f"{i:04d}-{kind}.{'jpg' if fmt=='JPEG' else 'png'}"
        file.write_bytes(kinds[kind](photo, fmt, rng))
        res.append(file)
    return res

def check_loading(files, faults):
    "What is not named can be loaded, at every size"
    for f in files:
        for need in (16,64,200):
            try: x = ScaledToTensor()(Resize(need)(ScaledImage.create(f), split_idx=1))
            except Exception as e: assert str(f) in faults, (f, e)
            else: assert x.shape==(3,need,need)

def check_alone(path, f, one):
    "Alone, a damaged file is named before the first batch or when it is met"
    shutil.copytree(path, one)
    shutil.copy(f, one/'train/A')
    with pytest.raises(ValueError, match=re.escape(str(one/'train/A'/Path(f).name))):
        learn = small_learner(get_dls(24, 8, one, num_workers=0))
        with learn.no_bar(), learn.no_logging(): learn.fit_progressive(2, (16,24))

def loads_or_is_named(path, tmp_path, n, seed):
    folder = tmp_path/'images'
    shutil.copytree(path, folder)
    files = damaged_files(folder/'train/A', n, seed)
    faults = find_faults(files, whole=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        check_loading(files, faults)
    found = {o.split('-')[-1].split('.')[0] for o in faults}
    assert {'zero','text','truncated'} <= found and not found & unusual.keys()
    make = partial(get_dls, path=folder, num_workers=0)
    with pytest.raises(ValueError, match='cannot be read as an image') as e: make(24, 8, verify=True)
    assert any(f in str(e.value) for f in faults) and f'and {len(faults)-1} more' in str(e.value)
    says = f'^{len(faults)} of {len(files)+34} images cannot be read and are left out, such as '
    with pytest.warns(UserWarning, match=says): dls = make(24, 8, verify='skip')
    assert len(dls.train_ds)==24+n-len(faults) and not {str(o) for o in dls.train_ds.items} & faults.keys()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = small_learner(dls)
        with learn.no_bar(), learn.no_logging():
            learn.fit_progressive(2, (16,24), get_dls=partial(make, verify='skip'))
        for f in list(faults)[:10]: check_alone(path, f, tmp_path/f'one{Path(f).stem}')
    return len(faults)

def test_damaged_files(path, tmp_path): loads_or_is_named(path, tmp_path, 40, 0)

@pytest.mark.long
def test_damaged_files_long(path, tmp_path):
    seed = random.randrange(10**6)
    print(f'{loads_or_is_named(path, tmp_path, 200, seed)} of 200 named, with the seed {seed}')

def test_verify(path):
    with pytest.raises(ValueError, match="verify='all': pass True, 'skip' or False"):
        get_dls(24, 8, path, verify='all')
    for verify in (True,'skip'): assert len(get_dls(24, 8, path, num_workers=0, verify=verify).train_ds)==24

def test_verify_keeps_sides(path, tmp_path):
    "Without train and val, an image stays on its side of the split when others are left out"
    folder = tmp_path/'images'
    shutil.copytree(path/'train', folder)
    def sides(**kwargs):
        dls = get_dls(24, 4, folder, num_workers=0, **kwargs)
        return [set(dl.dataset.items) for dl in dls.loaders]
    before = sides()
    bad = next(iter(before[1]))
    bad.write_bytes(b'')
    with pytest.warns(UserWarning, match='1 of 24 images'): after = sides(verify='skip')
    assert after==[before[0], before[1]-{bad}]
    with pytest.warns(UserWarning, match='1 of 24 images'):
        assert sides(verify='skip', cache=tmp_path/'copies')==after
