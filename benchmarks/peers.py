"""How fast others load the same images: 3,000 JPEGs of 500x375 px to batches of 64, uint8, each the largest square at a
random place resized to S x S; two workers, rounds in turn, medians. Decoded copies are filled beforehand. Then at 128
px, each loader in a process of its own: seconds to prepare, disk, and memory of process and workers in an epoch.

timm crops at random as it does, 75% to 100% of the area. What is not installed is skipped with a line:
`pip install timm webdataset`. numpy copies slices of one array that holds all images at their size: nothing is read,
decoded or resized. Ours decodes with torchcodec, if it is installed. FFCV and DALI need environments of their own, whose
Pythons are given as `--envs`: the head of `other_peers.py` says what to install there."""
import importlib.metadata, warnings; warnings.filterwarnings('ignore')
import contextlib, json, multiprocessing, subprocess, sys, tarfile
from fastai.vision.all import *
from fastai_progresize.all import *
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms.v2 import functional as F2
from photos import photos
from table import save_rows
from loading import Alone, bare_map, items_only

workers,bs,sizes = 2,64,(224,128,64)
shards,copies = (fastai_path('data')/o for o in ('benchmark-shards','benchmark-peers'))
loader = partial(torch.utils.data.DataLoader, batch_size=bs, num_workers=workers)

def images(): return photos(3000, 300)
def files(): return get_image_files(images()/'train').sorted()

class Files(torch.utils.data.Dataset):
    "What `read` makes of each file"
    def __init__(self, read): self.files,self.read = files(),read
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return self.read(self.files[i])

def _square(x, size):
    (h,w),m = x.shape[-2:],min(x.shape[-2:])
    return F2.resized_crop(x, random.randint(0, h-m), random.randint(0, w-m), m, m, [size,size], antialias=True)

def torchvision_files(size): return loader(Files(lambda f: _square(decode_jpeg(read_file(str(f))), size)), shuffle=True)

def timm_files(size):
    from timm.data import create_transform
    tfm = create_transform(size, is_training=True, use_prefetcher=True, scale=(.75,1.), hflip=0., color_jitter=None)
    def _read(f): return torch.as_tensor(tfm(Image.open(f).convert('RGB')))
    return loader(Files(_read), shuffle=True)

def webdataset_shards(size):
    import webdataset as wds
    if not shards.exists():
        shards.mkdir(parents=True)
        for i,part in enumerate(chunked(files(), 500)):
            with tarfile.open(shards/f'{i}.tar', 'w') as tar:
                for f in part: tar.add(f, f.name)
    def _read(s): return _square(decode_jpeg(torch.frombuffer(bytearray(s['jpg']), dtype=torch.uint8)), size),
    names = [str(o) for o in shards.ls(file_exts='.tar').sorted()]
    ds = wds.WebDataset(names, shardshuffle=len(names), seed=0).shuffle(500).map(_read).batched(bs, partial=False)
    return loader(ds, batch_size=None)

def _block(): return DataBlock((ImageBlock,CategoryBlock), get_items=get_image_files, get_y=parent_label,
                               splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(224))

def _book(size):
    return _block().new(item_tfms=Resize(460)).dataloaders(images(), bs=bs, num_workers=workers)

def book_files(size): return items_only(_book(size))

def our_files(size):
    dls = _block().new(item_tfms=Resize(size)).dataloaders(images(), bs=bs, num_workers=workers)
    return items_only(dls.fast())

@functools.cache
def our_copies(size):
    dls = _block().new(item_tfms=Resize(size)).dataloaders(images(), bs=bs, num_workers=workers)
    dls = dls.fast(cache=copies, decoded=True)
    for _ in range(2): L(iter(items_only(dls))).map(noop)
    return items_only(dls)

def numpy_workers(size): return bare_map(our_copies(size).crops.pixels)

def numpy_alone(size): return Alone(our_copies(size).crops.pixels)

peers = {'the book': (book_files,'fastai'), 'timm': (timm_files,'timm'),
         'webdataset, torchvision': (webdataset_shards,'webdataset'),
         'torchvision': (torchvision_files,'torchvision'), 'ours, files as they are': (our_files,'fastai'),
         'ours, decoded copies': (our_copies,'fastai'), 'numpy, two workers': (numpy_workers,'numpy'),
         'numpy, no worker': (numpy_alone,'numpy')}

others = {'DALI': 'dali', 'FFCV, JPEGs in its own file': 'ffcv_jpeg', 'FFCV, raw pixels of the size': 'ffcv_raw'}
other_files = fastai_path('data')/'benchmark-others'

class Other:
    "A loader of another environment, in a process of its own"
    def __init__(self, python, name):
        script = Path(__file__).with_name('other_peers.py')
        cmd = [python, script, name, images()/'train', other_files/name]
        self.process = subprocess.Popen(list(map(str, cmd)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.version = self._line()

    def _line(self):
        if not (line := self.process.stdout.readline()): raise ImportError
        return json.loads(line)

    def __call__(self, size):
        "The rate of an epoch, and what the loader needs"
        print(size, file=self.process.stdin, flush=True)
        return self._line()

def start_others(envs):
    "What there is of `others` in the environments `envs`"
    shutil.rmtree(other_files, ignore_errors=True)
    res = {}
    for k,name in others.items():
        for o in envs:
            with contextlib.suppress(ImportError): res[k] = Other(o, name)
        if k not in res: print(f"{k}: pass its Python as --envs")
    return res

def rate(dl):
    "Images per second, from the second batch on"
    if callable(dl): return dl()[0]
    seen,start = 0,None
    for b in dl:
        x = b[0] if isinstance(b, (tuple,list)) else b
        if start is not None: seen += len(x)
        else: start = time.perf_counter()
        assert x.dtype==torch.uint8 and x.shape[1]==3
    return seen/(time.perf_counter()-start)

def rows(rounds, others):
    for size in sizes:
        dls = {}
        for name,(make,package) in peers.items():
            try: dls[name] = make(size)
            except ImportError: print(f"{name}: pip install {package}")
        dls |= {k: partial(o, size) for k,o in others.items()}
        found = [{k: rate(dl) for k,dl in dls.items()} for _ in range(rounds)]
        for k,o in pd.DataFrame(found).median().items():
            version = others[k].version if k in others else importlib.metadata.version(peers[k][1])
            yield dict(loader=k, version=version, size=size, rate=o)

def _pss(pid):
    "Memory of a process, what it shares with others divided by their number, MiB"
    try: return int(re.search(r'^Pss: +(\d+)', Path(f'/proc/{pid}/smaps_rollup').read_text(), re.M)[1])/1024
    except OSError: return 0        # it has just ended

def _workers(): return [o.pid for o in multiprocessing.active_children()]

def cost(name, size=128):
    "What a loader needs before its first epoch and in it"
    images()
    for o in (shards,copies): shutil.rmtree(o, ignore_errors=True)
    start = time.perf_counter()
    dl = peers[name][0](size)
    res = dict(loader=name, size=size, seconds=time.perf_counter()-start, memory=0)
    for i,_ in enumerate(dl):
        if i%10==5: res['memory'] = max(res['memory'], sum(map(_pss, [os.getpid(),*_workers()])))
    return res | dict(disk=sum(o.stat().st_size for d in (shards,copies) for o in d.rglob('*') if o.is_file())/2**20)

def costs(others, size=128):
    for name in peers:
        r = subprocess.run([sys.executable,__file__,'--only',name], capture_output=True, text=True)
        if r.returncode==0: yield json.loads(r.stdout.splitlines()[-1])
    for k,o in others.items(): yield dict(loader=k, size=size, **o(size)[1])

@call_parse
def main(
    rounds:int=5, # Rounds in turn
    only:str='', # Print what one loader needs
    envs:str='', # Pythons of the environments of FFCV and DALI
):
    "Measure, print and save"
    if only: return print(json.dumps(cost(only)))
    save_rows('peers', rows(rounds, start_others(envs.split(',') if envs else [])))
    save_rows('peers_cost', costs(start_others(envs.split(',') if envs else [])))
