"""FFCV and DALI, as `peers.py` measures them, in an environment of their own, which needs neither fastai nor this package:

    peers.py --envs /envs/ffcv/bin/python,/envs/dali/bin/python

FFCV: Python 3.10, `apt-get install libopencv-dev libturbojpeg0-dev pkg-config`, then `pip install 'numpy<2' numba torch
torchvision opencv-python-headless fastargs tqdm psutil pandas matplotlib scikit-learn assertpy imgcat terminaltables webdataset
pybind11 pkgconfig 'setuptools<70' wheel` and `pip install --no-build-isolation --no-deps ffcv==1.0.2`.
DALI: `pip install nvidia-dali-cuda120 numpy`; its operators for CPUs need no GPU.

`peers.py` starts this script once for each loader. It prints a line with the version, and for each size that it reads from
stdin a line with the images per second of one epoch, from the second batch on, and what the loader needs."""
import json, os, re, sys, time
from importlib.metadata import version
from pathlib import Path

bs,workers = 64,2

def dali(files, folder, size):
    from nvidia.dali import fn, pipeline_def, types
    @pipeline_def(batch_size=bs, num_threads=workers, device_id=None, prefetch_queue_depth=2)
    def _pipe():
        jpegs,_ = fn.readers.file(files=files, random_shuffle=True, name='files', seed=0)
        side = fn.cast(fn.reductions.min(fn.peek_image_shape(jpegs)[:2]), dtype=types.FLOAT)
        x,y = (fn.random.uniform(range=(0.,1.)) for _ in 'xy')
        images = fn.decoders.image_crop(jpegs, crop_h=side, crop_w=side, crop_pos_x=x, crop_pos_y=y)
        return fn.transpose(fn.resize(images, size=(size,size), antialias=True), perm=[2,0,1])
    pipe = _pipe()
    pipe.build()
    def _epoch():
        for _ in range(len(files)//bs): yield pipe.run()[0].as_array()
    return _epoch

def _beton(files, folder, name, size=None):
    "The images in a file of FFCV's: JPEGs as they are, or pixels whose shorter side is `size`"
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image
    file = folder/f'{name}.beton'
    if file.exists(): return file
    class Images:
        def __len__(self): return len(files)
        def __getitem__(self, i):
            im = Image.open(files[i]).convert('RGB')
            k = size/min(im.size) if size else 1
            return im.resize([round(o*k) for o in im.size], Image.BICUBIC) if size else im,0
    field = RGBImageField(write_mode='raw') if size else RGBImageField(write_mode='jpg')
    DatasetWriter(str(file), {'image': field, 'label': IntField()}, num_workers=workers).from_indexed_dataset(Images())
    return file

def _ffcv(file, size):
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor, ToTorchImage
    crop = RandomResizedCropRGBImageDecoder((size,size), scale=(.75,.75), ratio=(1.,1.))     # the largest square of 4x3
    pipelines = {'image': [crop, ToTensor(), ToTorchImage()], 'label': None}
    loader = Loader(str(file), batch_size=bs, num_workers=workers, order=OrderOption.RANDOM, os_cache=True, drop_last=True,
                    pipelines=pipelines)
    return lambda: (b[0] for b in loader)

def ffcv_jpeg(files, folder, size): return _ffcv(_beton(files, folder, 'jpeg'), size)

def ffcv_raw(files, folder, size): return _ffcv(_beton(files, folder, f'raw-{size}', size), size)

def memory():
    "MiB of this process, with its share of what others have too"
    return int(re.search(r'^Pss: +(\d+)', Path('/proc/self/smaps_rollup').read_text(), re.M)[1])/1024

def rate(epoch, watch=False):
    seen,start,most = 0,None,0
    for i,x in enumerate(epoch()):
        if start is not None: seen += len(x)
        else: start = time.perf_counter()
        assert tuple(x.shape[:2])==(bs,3) and str(x.dtype).endswith('uint8')
        if watch and i%10==5: most = max(most, memory())
    return most if watch else seen/(time.perf_counter()-start)

packages = dict(dali='nvidia-dali-cuda120', ffcv_jpeg='ffcv', ffcv_raw='ffcv')

if __name__=='__main__':
    name,images,folder = sys.argv[1],Path(sys.argv[2]),Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    files,epochs,out = sorted(map(str, images.rglob('*.jpg'))),{},os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)       # what the libraries print
    print(json.dumps(version(packages[name])), file=out, flush=True)
    for line in sys.stdin:
        size = int(line)
        if size not in epochs:
            start = time.perf_counter()
            epochs[size] = globals()[name](files, folder, size)
            needs = dict(seconds=time.perf_counter()-start, memory=rate(epochs[size], watch=True),
                         disk=sum(o.stat().st_size for o in folder.glob('*'))/2**20)
        print(json.dumps([rate(epochs[size]),needs]), file=out, flush=True)
