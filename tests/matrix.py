"What it works with: cells of {Learner, data, task, callback, option, what is done after}, made of small named parts"
import zipfile
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.hook import ActivationStats
from fastai.vision.gan import AdaptiveLoss, FixedGANSwitcher, GANLearner, basic_critic, basic_generator, generate_noise
from helpers import *
from fastai_progresize.data import probe_batch

two = dict(n_epoch=2, sizes=(32,48))

# Files: twelve photographs, of which the last four are validated on

def make_files(d):
    "Images in every form that `datas` reads"
    rows = []
    with zipfile.ZipFile(d/'all.zip', 'w') as z:
        for i in range(12):
            a = np.random.RandomState(i).randint(0, 255, (60,80,3), dtype=np.uint8)
            rows.append((f'{i:02}_{"ab"[i%2]}.jpg', 'ab'[i%2], i>=8))
            _save_image(d, z, i, a, rows[-1][0])
    pd.DataFrame(rows, columns=['name','label','is_valid']).to_csv(d/'labels.csv', index=False)
    (d/'broken').mkdir()
    for f in jpegs(d): shutil.copy(f, d/'broken')
    (d/'broken'/rows[-1][0]).write_text('no image')
    return d

def _save_image(d, z, i, a, name):
    im,stem = Image.fromarray(a),name[:-4]
    for folder in ('all','rgba','webp','masks','npy','pt','tiff'): (d/folder).mkdir(exist_ok=True)
    own = d/'parts'/('valid' if i>=8 else 'train')/stem[-1]
    own.mkdir(parents=True, exist_ok=True)
    for o in (d/'all',own): im.save(o/name)
    im.convert('RGBA').save(d/'rgba'/f'{stem}.png')
    im.save(d/'webp'/f'{stem}.webp')
    Image.fromarray((a[...,0]>128).astype(np.uint8)).save(d/'masks'/f'{stem}.png')
    np.save(d/'npy'/f'{stem}.npy', a)
    torch.save(tensor(a), d/'pt'/f'{stem}.pt')
    bands = [Image.fromarray(a[...,c%3]) for c in range(4)]
    bands[0].save(d/'tiff'/f'{stem}.tif', save_all=True, append_images=bands[1:])
    z.write(own/name, name)

def jpegs(d): return get_image_files(d/'all').sorted()
def number(f): return int(Path(f).name[:2])
def label(f): return Path(f).stem[-1]
def labels(f): return [label(f), 'third' if number(f)%3==0 else 'other']
def third(f): return number(f)%3==0
def angle(f): return number(f)/10
def mask(f): return f.parent.parent/'masks'/f'{f.stem}.png'
def points(f): return tensor([[30.,20.],[60.,50.]])
def boxes(f): return [[10,10,40,40],[20,20,60,50]]
def box_names(f): return ['x','y']
last_four = IndexSplitter(range(8, 12))

# Tasks

def box_loss(pred, boxes, names): return F.mse_loss(pred.view(len(pred), -1, 4)[:,:boxes.shape[1]], TensorBase(boxes))
def two_loss(pred, a, b): return F.cross_entropy(pred[:,:2], a.long()) + F.cross_entropy(pred[:,2:], b.long())

class Task:
    "Blocks and labels of a `DataBlock`, outputs of a model, and its loss"
    def __init__(self, blocks, n_out, loss, metrics=None, item=None, batch=None, n_inp=None, **kwargs):
        self.n_out,self.loss,self.metrics,self.item,self.batch = n_out,loss,metrics,item,batch
        self.block = partial(DataBlock, blocks, n_inp=n_inp, splitter=last_four, **kwargs)

img_cat = (ImageBlock,CategoryBlock)
whole = dict(item=lambda: Resize(48), batch=lambda: aug_transforms())      # what is in the image goes with it
tasks = {
    'single label': Task(img_cat, 2, CrossEntropyLossFlat, accuracy, get_y=label),
    'multi label': Task((ImageBlock,MultiCategoryBlock), 4, BCEWithLogitsLossFlat, accuracy_multi, get_y=labels),
    'regression': Task((ImageBlock,RegressionBlock), 1, MSELossFlat, rmse, get_y=angle),
    'segmentation': Task((ImageBlock,MaskBlock(codes=['no','yes'])), 2, partial(CrossEntropyLossFlat, axis=1),
                         Dice, get_y=mask),
    'points': Task((ImageBlock,PointBlock), 4, MSELossFlat, get_y=points, **whole),
    'boxes': Task((ImageBlock,BBoxBlock,BBoxLblBlock), 8, lambda: box_loss, n_inp=1, get_y=[boxes,box_names], **whole),
    'image to image': Task((ImageBlock,ImageBlock), 3, MSELossFlat, get_y=noop),
    'two targets': Task((ImageBlock,CategoryBlock,CategoryBlock), 4, lambda: two_loss, n_inp=1, get_y=[label,third]),
    'two images': Task((ImageBlock,ImageBlock,CategoryBlock), 2, CrossEntropyLossFlat, accuracy, n_inp=2,
                       getters=[noop,noop,label]),
    'image and number': Task((ImageBlock,RegressionBlock,CategoryBlock), 2, CrossEntropyLossFlat, accuracy, n_inp=2,
                             getters=[noop,angle,label]),
}

# Data

kw = dict(bs=4, num_workers=0)

def dls_of(block, source, d, **kwargs): return block.dataloaders(source, path=d, **{**kw, **kwargs})

def resized(item=None, batch=None, **kwargs):
    "A `DataBlock` of the task with these transforms"
    def _dls(d, task):
        t = tasks[task]
        items,batches = (o() if o else None for o in (t.item or item, t.batch or batch))
        return dls_of(t.block(item_tfms=items, batch_tfms=batches), jpegs(d), d, **kwargs)
    return _dls

book = dict(item=lambda: Resize(56), batch=lambda: aug_transforms(size=48))

def factory(name, *args):
    "One of the factories of `ImageDataLoaders`"
    def _dls(d, task):
        make = getattr(ImageDataLoaders, name)
        return make(d, jpegs(d), *args, item_tfms=Resize(48), valid_pct=.34, seed=1, **kw)
    return _dls

def from_df(d, task):
    df = pd.read_csv(d/'labels.csv')
    return ImageDataLoaders.from_df(df, d, folder='all', valid_col='is_valid', item_tfms=Resize(48), **kw)
def from_csv(d, task):
    return ImageDataLoaders.from_csv(d, 'labels.csv', folder='all', valid_col='is_valid', item_tfms=Resize(48), **kw)
def from_lists(d, task):
    fs = jpegs(d)
    return ImageDataLoaders.from_lists(d, fs, fs.map(label), valid_pct=.34, seed=1, item_tfms=Resize(48), **kw)
def from_folder(d, task):
    return ImageDataLoaders.from_folder(d/'parts', valid='valid', item_tfms=Resize(48), **kw)
def first_char(s): return s[3]

def block(source, item=None, batch=None, blocks=img_cat, get_y=label, splitter=last_four, **kwargs):
    "Another source, with labels in its items"
    def _dls(d, task):
        items,batches = (item or (lambda: Resize(48)))(),batch and batch()
        b = DataBlock(blocks, get_y=get_y, item_tfms=items, batch_tfms=batches, splitter=splitter, **kwargs)
        return dls_of(b, source(d), d)
    return _dls

def in_folder(name): return lambda d: L((d/name).ls()).sorted()
def arrays(d): return [np.array(Image.open(o)) for o in jpegs(d)]
def pil_tuples(d): return [(PILImage.create(o), label(o)) for o in jpegs(d)]
def array_tuples(d): return [(a, label(o)) for a,o in zip(arrays(d), jpegs(d))]
def dicts(d): return [dict(image=a, label=label(o)) for a,o in zip(arrays(d), jpegs(d))]
def image_cells(d): return pd.DataFrame(dicts(d))
def pixel_columns(d):
    rows = [[label(o), *np.array(Image.open(o).convert('L').resize((48,48))).reshape(-1)] for o in jpegs(d)]
    return pd.DataFrame(rows, columns=['label',*(f'pixel{i}' for i in range(48*48))])
def read_pixels(row): return np.array(row[1:], dtype=np.uint8).reshape(48,48)
def read_bands(f):
    im = Image.open(f)
    bands = []
    for i in range(im.n_frames):
        im.seek(i)
        bands.append(tensor(np.array(im)))
    return TensorImage(torch.stack(bands))
def read_pt(f): return torch.load(f)
def read_npy(f): return PILImage.create(np.load(f))
def file_bytes(f): return Path(f).read_bytes()
class ZipReader:
    "The bytes of a member"
    def __init__(self, file): self.file = file
    def __call__(self, name):
        with zipfile.ZipFile(self.file) as z: return z.read(name)
def zip_members(d, task):
    names = sorted(zipfile.ZipFile(d/'all.zip').namelist())
    b = DataBlock(img_cat, get_x=ZipReader(d/'all.zip'), get_y=label, splitter=last_four, item_tfms=Resize(48))
    return dls_of(b, names, d)
class NpyImage(PILImage):
    "Has its own way to open a file"
    @classmethod
    def create(cls, f, **kwargs): return super().create(np.load(f) if isinstance(f, (str,Path)) else f, **kwargs)
class PILRGBA(PILImage): _open_args = {'mode':'RGBA'}
def text_paths(d): return [str(o) for o in jpegs(d)]
def own_create(f): return PILImage.create(f)

class Pick:
    "What an index stands for, in arrays of its own"
    def __init__(self, xs): self.xs = xs
    def __call__(self, i): return self.xs[i]
def indices(d, task):
    xs,ys = arrays(d),L(jpegs(d)).map(label)
    def _part(a, b):
        return Datasets(range(b-a), [[Pick(xs[a:b]),PILImage.create],[Pick(ys[a:b]),Categorize(['a','b'])]])
    return DataLoaders.from_dsets(_part(0, 8), _part(8, 12), path=d, after_item=[Resize(48),ToTensor],
                                  after_batch=IntToFloatTensor, **kw)

class OwnDataset:
    "A dataset as torch has them"
    def __init__(self, files): self.files = files
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return PILImage.create(self.files[i]),TensorCategory(int(label(self.files[i])=='b'))
def own_dsets(d, task):
    fs = jpegs(d)
    return DataLoaders.from_dsets(OwnDataset(fs[:8]), OwnDataset(fs[8:]), path=d, after_item=[Resize(48),ToTensor],
                                  after_batch=IntToFloatTensor, **kw)

class TorchDataset:
    "Tensors of one size"
    def __init__(self, files, size): self.files,self.size = files,hw(size)
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        im = Image.open(self.files[i]).resize(self.size[::-1])
        return tensor(np.array(im)).permute(2, 0, 1).float()/255,tensor(int(label(self.files[i])=='b'))
def torch_dls(d, size=48, bs=4):
    fs,make = jpegs(d),partial(torch.utils.data.DataLoader, batch_size=bs)
    return DataLoaders(make(TorchDataset(fs[:8], size), shuffle=True), make(TorchDataset(fs[8:], size)), path=d)
def vision_dls(d, size=48, bs=4):
    "torchvision's dataset and transforms"
    from torchvision import datasets as D, transforms as T
    tfm = T.Compose([T.Resize(hw(size)), T.ToTensor()])
    def _dl(part):
        return torch.utils.data.DataLoader(D.ImageFolder(d/'parts'/part, tfm), batch_size=bs, shuffle=part=='train')
    return DataLoaders(_dl('train'), _dl('valid'), path=d)

def weighted(d, task):
    b = tasks[task].block(item_tfms=Resize(48))
    return b.weighted_dataloaders(jpegs(d), np.arange(1, 13), path=d, **kw)
def partly(d, task):
    dsets = tasks[task].block().datasets(jpegs(d))
    return dsets.partial_dataloaders(6, path=d, after_item=[Resize(48),ToTensor], after_batch=IntToFloatTensor, **kw)
def kornia_tfms():
    import kornia.augmentation as K
    return KorniaTransform(K.RandomRotation(10.))
class KorniaTransform(Transform):
    "An augmentation of another library, for a batch"
    order,split_idx = 20,0
    def __init__(self, aug): self.aug = aug
    def encodes(self, x:TensorImage): return TensorImage(self.aug(TensorBase(x).as_subclass(Tensor)))
class Invert(Transform):
    "One's own transform of items"
    def encodes(self, x:PILImage): return PILImage.create(255-np.array(x))
class OwnResize(Transform):
    "Resizes, and does not say so"
    def encodes(self, x:PILImage): return x.resize((48,48))
def dicoms(d):
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    (d/'dicom').mkdir(exist_ok=True)
    for f in jpegs(d):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid()
        ds.Rows,ds.Columns,ds.SamplesPerPixel,ds.PhotometricInterpretation = 60,80,1,'MONOCHROME2'
        ds.BitsAllocated,ds.BitsStored,ds.HighBit,ds.PixelRepresentation = 8,8,7,0
        ds.PixelData = np.array(Image.open(f).convert('L')).tobytes()
        ds.save_as(d/'dicom'/f'{f.stem}.dcm', enforce_file_format=True)
    return L((d/'dicom').ls()).sorted()
def dicom(d, task):
    from fastai.medical.imaging import PILDicom
    return block(dicoms, blocks=(ImageBlock(PILDicom),CategoryBlock))(d, task)
def noise(d, task):
    b = DataBlock((TransformBlock,ImageBlock), get_x=partial(generate_noise, size=10), splitter=last_four,
                  item_tfms=Resize(48))
    return dls_of(b, jpegs(d), d)
def numbers(d, task):
    ds = Datasets(range(12), [[Pick(torch.randn(12, 5))],[Pick(torch.arange(12)%2)]], splits=last_four(range(12)))
    return ds.dataloaders(path=d, **kw)
def volumes(d, task):
    ds = Datasets(range(12), [[Pick(torch.randn(12, 3, 4, 48, 48))],[Pick(torch.arange(12)%2)]],
                  splits=last_four(range(12)))
    return ds.dataloaders(path=d, **kw)

bands = TransformBlock(type_tfms=read_bands, batch_tfms=IntToFloatTensor)
datas = {
    'DataBlock': resized(**book),
    'Resize': resized(lambda: Resize(48)),
    'Squish': resized(lambda: Resize(48, ResizeMethod.Squish)),
    'Pad': resized(lambda: Resize(48, ResizeMethod.Pad, pad_mode=PadMode.Zeros)),
    'RandomResizedCrop': resized(lambda: RandomResizedCrop(48, min_scale=.5)),
    'RandomResizedCropGPU': resized(None, lambda: RandomResizedCropGPU(48)),
    'Flip(size), on batches only': resized(None, lambda: Flip(size=48)),
    'CropPad': resized(lambda: [Resize(56),CropPad(48, order=2)]),
    'RandomCrop': resized(lambda: [Resize(56),RandomCrop(48)]),
    'RatioResize': resized(lambda: RatioResize(48)),
    'Normalize': resized(lambda: Resize(48), lambda: Normalize.from_stats(*imagenet_stats)),
    'from_folder': from_folder,
    'from_name_func': factory('from_name_func', first_char),
    'from_name_re': factory('from_name_re', r'_(.)\.jpg$'),
    'from_path_func': factory('from_path_func', label),
    'from_path_re': factory('from_path_re', r'_(.)\.jpg$'),
    'from_df': from_df,
    'from_csv': from_csv,
    'from_lists': from_lists,
    'get_dls': lambda d, task: get_dls(48, 4, d/'parts', num_workers=0),
    'dls.fast()': lambda d, task: resized(**book)(d, task).fast(),
    'WeightedDL': weighted,
    'partial_dataloaders': partly,
    'two persistent workers': resized(**book, num_workers=2, persistent_workers=True),
    'another val_bs': resized(**book, val_bs=2),
    'no validation set': block(jpegs, splitter=IndexSplitter([])),
    'paths as text': block(text_paths),
    'own reader of files': block(jpegs, blocks=(TransformBlock(own_create, batch_tfms=IntToFloatTensor),CategoryBlock)),
    'bytes of files': block(jpegs, get_x=file_bytes),
    'WebP': block(in_folder('webp')),
    'PNG with alpha': block(in_folder('rgba'), blocks=(ImageBlock(PILRGBA),CategoryBlock)),
    'black and white': block(jpegs, blocks=(ImageBlock(PILImageBW),CategoryBlock)),
    'PIL images and labels': block(pil_tuples, get_x=ItemGetter(0), get_y=ItemGetter(1)),
    'arrays and labels': block(array_tuples, get_x=ItemGetter(0), get_y=ItemGetter(1)),
    'dicts': block(dicts, get_x=itemgetter('image'), get_y=itemgetter('label')),
    'indices of separate datasets': indices,
    "one's own datasets": own_dsets,
    'images in a DataFrame': block(image_cells, get_x=ColReader('image'), get_y=ColReader('label')),
    'pixels in columns': block(pixel_columns, blocks=(ImageBlock(PILImageBW),CategoryBlock), get_x=read_pixels,
                               get_y=ColReader('label')),
    '.npy files, get_x': block(in_folder('npy'), get_x=np.load),
    '.npy files, own block': block(in_folder('npy'), blocks=(TransformBlock(read_npy, batch_tfms=IntToFloatTensor),
                                                            CategoryBlock)),
    '.npy files, own class': block(in_folder('npy'), blocks=(ImageBlock(NpyImage),CategoryBlock)),
    '.pt files': block(in_folder('pt'), get_x=read_pt),
    'members of a zip': zip_members,
    'TIFF of four bands': block(in_folder('tiff'), lambda: None, lambda: Flip(size=48), blocks=(bands,CategoryBlock)),
    'PILDicom': dicom,
    'transform of kornia': resized(lambda: Resize(48), kornia_tfms),
    "one's own transform": block(jpegs, lambda: [Resize(48),Invert()]),
    "torch's loaders": lambda d, task: torch_dls(d),
    "torchvision's dataset": lambda d, task: vision_dls(d),
    'images of one size, no Resize': block(jpegs, lambda: ToTensor()),
    "one's own resizing transform": block(jpegs, lambda: OwnResize()),
    'a broken file': block(in_folder('broken')),
    'rows of numbers': numbers,
    'volumes': volumes,
    'noise': noise,
}

# Learners

def convs(n_in, n_out):
    body = nn.Sequential(ConvLayer(n_in, 8, stride=2), ConvLayer(8, 16, stride=2))
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_out)))

def pixelwise(n_in, n_out): return nn.Sequential(ConvLayer(n_in, 8), nn.Conv2d(8, n_out, 1))

class TwoInputs(nn.Module):
    "Two images, or an image and a number"
    def __init__(self, n_in, n_out):
        super().__init__()
        self.body,self.head = convs(n_in, 4),nn.LazyLinear(n_out)
    def forward(self, x, y):
        b = self.body(y) if y.ndim==4 else TensorBase(y).view(len(x), -1).float()
        return self.head(torch.cat([TensorBase(self.body(x)),TensorBase(b)], 1).as_subclass(Tensor))
def two_inputs(n_in, n_out, task):
    m = TwoInputs(n_in, n_out)
    m.head = nn.Linear(8 if task=='two images' else 5, n_out)
    return m

class WithMean(nn.Module):
    "Gets the mean of the image as a second input, from a callback"
    def __init__(self, n_in, n_out):
        super().__init__()
        self.body,self.lin = convs(n_in, n_out),nn.Linear(1, n_out)
    def forward(self, x, mean): return self.body(x)+self.lin(mean)
class AddMean(Callback):
    def before_batch(self): self.learn.xb = (*self.xb, TensorBase(self.x).mean((1,2,3))[:,None].as_subclass(Tensor))

class DictOut(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.body = convs(n_in, n_out)
    def forward(self, x): return dict(logits=self.body(x), extra=x.mean())
class Unpack(Callback):
    def after_pred(self): self.learn.pred = self.pred['logits']

Outputs = namedtuple('Outputs', 'logits aux_logits')
class Auxiliary(nn.Module):
    "Two heads in training, one in validation, as `inception_v3`"
    def __init__(self, n_in, n_out, side=0):
        super().__init__()
        self.body,self.head,self.aux,self.side = convs(n_in, 8),nn.Linear(8, n_out),nn.Linear(8, n_out),side
    def forward(self, x):
        small,x = x.shape[-1]<self.side,self.body(x)
        if not self.training: return self.head(x)
        if small: raise RuntimeError(f'The auxiliary head needs {self.side} px')
        return Outputs(self.head(x), self.aux(x))
class AuxLoss(CrossEntropyLossFlat):
    def __call__(self, pred, y):
        if not isinstance(pred, tuple): return super().__call__(pred, y)
        return super().__call__(pred[0], y) + .4*super().__call__(pred[1], y)

class Fixed(nn.Module):
    "A linear layer for 48x48 px"
    def __init__(self, n_in, n_out, side=48):
        super().__init__()
        self.conv,self.lin = ConvLayer(n_in, 4, stride=4),nn.Linear(4*(side//4)**2, n_out)
    def forward(self, x): return self.lin(self.conv(x).flatten(1))
class Only(nn.Module):
    "Takes one size, and says so"
    def __init__(self, n_in, n_out, side=48):
        super().__init__()
        self.side,self.body = side,convs(n_in, n_out)
    def forward(self, x):
        if x.shape[-1]!=self.side: raise AssertionError(f'Input size {x.shape[-1]} is not {self.side}')
        return self.body(x)
class AtLeast(Only):
    def forward(self, x):
        if x.shape[-1]<self.side: raise RuntimeError(f'Input is smaller than {self.side}')
        return self.body(x)

class CountingLoss(CrossEntropyLossFlat):
    "Weighs its first batches less"
    def __init__(self): super().__init__(); self.calls = 0
    def __call__(self, pred, y):
        self.calls += 1
        return super().__call__(pred, y)*min(1, self.calls/4)
class LearnedLoss(nn.Module):
    "With a temperature that is trained"
    def __init__(self):
        super().__init__()
        self.temp = nn.Parameter(torch.ones(1))
    def forward(self, pred, y): return F.cross_entropy(TensorBase(pred).as_subclass(Tensor)/self.temp, y.long())
def with_loss(loss, model): return [params(model)+params(loss)]

class Ask:
    "What a Learner is made for"
    def __init__(self, dls, task):
        t = tasks[task]
        self.dls,self.task,self.n_out,self.metrics = dls,task,t.n_out,t.metrics
        if isinstance(self.metrics, type): self.metrics = self.metrics()
        self.kwargs = dict(loss_func=t.loss(), metrics=self.metrics, lr=3e-3)
    @property
    def n_in(self):
        x = probe_batch(self.dls.train)[0]
        return x.shape[1] if x.ndim==4 else 3
    def model(self):
        if self.task in ('segmentation','image to image'): return pixelwise(self.n_in, self.n_out)
        if self.task in ('two images','image and number'): return two_inputs(self.n_in, self.n_out, self.task)
        return convs(self.n_in, self.n_out)
    def learner(self, model=None, **kwargs):
        return Learner(self.dls, model or self.model(), **{**self.kwargs, **kwargs})
    def of(self, cls, **kwargs): return self.learner(cls(self.n_in, self.n_out), **kwargs)
    def vision(self, arch, **kwargs):
        return vision_learner(self.dls, arch, pretrained=False, n_in=self.n_in, n_out=self.n_out,
                              **{**self.kwargs, **kwargs})
    def unet(self, **kwargs):
        return unet_learner(self.dls, resnet18, pretrained=False, n_in=self.n_in, n_out=self.n_out,
                            **{**self.kwargs, **kwargs})
    def timm(self, name, **kwargs):
        import timm
        return self.learner(timm.create_model(name, in_chans=self.n_in, num_classes=self.n_out, **kwargs))
    def torchvision(self, name):
        import torchvision
        return self.learner(getattr(torchvision.models, name)(weights=None, num_classes=self.n_out))

def frozen(a):
    learn = a.learner(splitter=body_head)
    learn.freeze()
    return learn
def frozen_vision(a):
    learn = a.vision(resnet18)
    learn.freeze()
    return learn
def lr_per_group(a): return a.learner(splitter=body_head, lr=slice(1e-4, 3e-3))
def parallel(a): return a.learner(nn.DataParallel(a.model()))
def channels_last(a): return a.learner(a.model().to(memory_format=torch.channels_last))
def compiled(a): return a.learner(torch.compile(a.model(), backend='eager'))
def normed(norm):
    def _learner(a):
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, a.n_out)]
        return a.learner(nn.Sequential(norm(nn.Conv2d(a.n_in, 8, 3)), *head))
    return _learner
def learned_loss(a):
    loss = LearnedLoss()
    return a.learner(loss_func=loss, splitter=partial(with_loss, loss))
def gan(a):
    gen = a.learner(pixelwise(3, 3))
    critic = Learner(a.dls, convs(3, 1), loss_func=AdaptiveLoss(nn.BCEWithLogitsLoss()))
    return GANLearner.from_learners(gen, critic, switcher=FixedGANSwitcher(), lr=1e-3)
def wgan(a):
    return GANLearner.wgan(a.dls, basic_generator(48, 3, in_sz=10, n_features=4), basic_critic(48, 3, n_features=4))

def timm_vision(name): return lambda a: a.vision(name)
def timm_model(name, **kwargs): return lambda a: a.timm(name, **kwargs)
def of_torchvision(name): return lambda a: a.torchvision(name)

learners = {
    'Learner': Ask.learner,
    'two parameter groups': lambda a: a.learner(splitter=body_head),
    'an lr per group': lr_per_group,
    'frozen body': frozen,
    'frozen vision_learner': frozen_vision,
    'vision_learner': lambda a: a.vision(resnet18),
    'vision_learner, concat_pool=False': lambda a: a.vision(resnet18, concat_pool=False),
    'vision_learner, own head': lambda a: a.vision(resnet18, custom_head=create_head(512, a.n_out, lin_ftrs=[8])),
    'vision_learner squeezenet1_1': lambda a: a.vision(models.squeezenet1_1),
    'unet_learner': Ask.unet,
    'xresnet18': lambda a: a.learner(xresnet18(c_in=a.n_in, n_out=a.n_out)),
    'xresnet18 with self-attention': lambda a: a.learner(xresnet18(c_in=a.n_in, n_out=a.n_out, sa=True)),
    'timm convnext_atto': timm_vision('convnext_atto'),
    'timm efficientnet_b0': timm_vision('efficientnet_b0'),
    'timm mobilenetv3_small_050': timm_vision('mobilenetv3_small_050'),
    'timm resnet10t': timm_model('resnet10t'),
    'timm regnetx_002': timm_model('regnetx_002'),
    'timm edgenext_xx_small': timm_model('edgenext_xx_small'),
    'timm mobilevit_xxs': timm_model('mobilevit_xxs'),
    'timm xcit_nano_12_p8_224': timm_model('xcit_nano_12_p8_224'),
    'timm pvt_v2_b0': timm_model('pvt_v2_b0'),
    'timm vit_tiny, dynamic_img_size': timm_model('vit_tiny_patch16_224', img_size=48, dynamic_img_size=True),
    'timm vit_tiny': timm_model('vit_tiny_patch16_224', img_size=48),
    'timm gmlp_ti16_224': timm_model('gmlp_ti16_224', img_size=48),
    'torchvision resnet18': of_torchvision('resnet18'),
    'torchvision mobilenet_v3_small': of_torchvision('mobilenet_v3_small'),
    'torchvision shufflenet_v2_x0_5': of_torchvision('shufflenet_v2_x0_5'),
    'torchvision mnasnet0_5': of_torchvision('mnasnet0_5'),
    'torchvision regnet_y_400mf': of_torchvision('regnet_y_400mf'),
    'auxiliary head': lambda a: a.of(Auxiliary, loss_func=AuxLoss()),
    'auxiliary head for 40 px or more': lambda a: a.of(partial(Auxiliary, side=40), loss_func=AuxLoss()),
    'dict as output': lambda a: a.of(DictOut, cbs=Unpack()),
    'input added by a callback': lambda a: a.of(WithMean, cbs=AddMean()),
    'loss that counts': lambda a: a.learner(loss_func=CountingLoss()),
    'loss that learns': learned_loss,
    'loss of torch': lambda a: a.learner(loss_func=nn.CrossEntropyLoss()),
    'function of torch as loss': lambda a: a.learner(loss_func=F.cross_entropy),
    'torch.compile': compiled,
    'DataParallel': parallel,
    'channels_last': channels_last,
    'spectral_norm': normed(nn.utils.spectral_norm),
    'weight_norm': normed(nn.utils.parametrizations.weight_norm),
    'at least 32 px': lambda a: a.of(partial(AtLeast, side=32)),
    'GANLearner.from_learners': gan,
    'GANLearner.wgan': wgan,
    'linear layer of fixed size': lambda a: a.of(Fixed),
    'takes 48 px only': lambda a: a.of(Only),
    'takes 40 px or more': lambda a: a.of(partial(AtLeast, side=40)),
    'takes 64 px only': lambda a: a.of(partial(Only, side=64)),
}

# Callbacks: what a learner gets for the run

class EMA(Callback):
    "Validates with a mean of the weights"
    def before_fit(self): self.mean = deepcopy(self.model.state_dict())
    def after_step(self):
        for k,v in self.model.state_dict().items():
            if v.is_floating_point(): self.mean[k].lerp_(v, .1)
    def before_validate(self):
        self.own = deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.mean)
    def after_validate(self): self.model.load_state_dict(self.own)
class SetsLoss(Callback):
    "Another loss in training than in validation"
    def before_train(self): self.own,self.learn.loss_func = self.loss_func,LabelSmoothingCrossEntropyFlat()
    def after_train(self): self.learn.loss_func = self.own
class ScaleLoss(Callback):
    def after_loss(self):
        if self.training: self.learn.loss_grad = self.loss_grad*.5
class SkipsBatches(Callback):
    def before_batch(self):
        if self.training and self.iter%2: raise CancelBatchException
class AtEpoch(Callback):
    "Counts epochs of the run"
    def before_fit(self): self.epochs = []
    def after_epoch(self): self.epochs.append(self.epoch)
class KeepsState(Callback):
    "What it has is in a checkpoint too"
    n = 0
    def after_batch(self): self.n += 1
    def state_dict(self): return dict(n=self.n)
    def load_state_dict(self, state): self.n = state['n']
class JitterInput(Callback):
    run_valid = False
    def before_batch(self): self.learn.xb = (self.x+.01,)
class ScheduleFree(Callback):
    "Switches the mode of schedulefree's optimizer"
    def before_train(self): self.opt.opt.train()
    def before_validate(self):
        if self.opt: self.opt.opt.eval()       # a loaded Learner has none

def lamb(p, **kwargs): return Lamb(p, **kwargs)
def adamw(p, lr, **kwargs): return OptimWrapper(p, torch.optim.AdamW, lr=lr)
def nesterov(p, lr, **kwargs): return OptimWrapper(p, torch.optim.SGD, lr=lr, momentum=.9, nesterov=True)
def schedule_free(p, lr, **kwargs):
    import schedulefree
    return OptimWrapper(p, schedulefree.AdamWScheduleFree, lr=lr)

def cb(make): return lambda learn: L(make())
def opt(f):
    def _set(learn): learn.opt_func = f; return []
    return _set
def loss(make):
    def _set(learn): learn.loss_func = make(); return []
    return _set
def metric(make):
    def _set(learn): learn.metrics = L(make()); return []
    return _set
def own(make):
    "A callback that the learner has, for all its fits"
    def _add(learn): learn.add_cbs(make()); return []
    return _add
def to_half(learn): learn.to_fp16(); return []
def frozen_start(learn):
    learn.create_opt()
    learn.freeze()
    return []
def tensorboard():
    from fastai.callback.tensorboard import TensorBoardCallback
    return TensorBoardCallback(log_dir='runs', trace_model=False, log_preds=False)
def weighted_loss(): return CrossEntropyLossFlat(weight=tensor([.3,.7]))

callbacks = {
    'none': cb(list),
    'MixUp': cb(MixUp),
    'CutMix': cb(CutMix),
    'GradientAccumulation': cb(lambda: GradientAccumulation(8)),
    'GradientClip': cb(GradientClip),
    'SaveModelCallback': cb(SaveModelCallback),
    'SaveModelCallback, every_epoch': cb(lambda: SaveModelCallback(every_epoch=True, with_opt=True)),
    'EarlyStoppingCallback': cb(lambda: EarlyStoppingCallback(patience=3)),
    'ReduceLROnPlateau': cb(ReduceLROnPlateau),
    'CSVLogger': cb(CSVLogger),
    'ShowGraphCallback': cb(ShowGraphCallback),
    'TensorBoardCallback': cb(tensorboard),
    'ChannelsLast': cb(ChannelsLast),
    'BnFreeze': cb(BnFreeze),
    'ActivationStats': cb(ActivationStats),
    'TerminateOnNaNCallback': cb(TerminateOnNaNCallback),
    'ShortEpochCallback': cb(lambda: ShortEpochCallback(.5, short_valid=False)),
    'to_fp16': to_half,
    'MixedPrecision': cb(MixedPrecision),
    'MixUp on the learner': own(MixUp),
    'GradientAccumulation on the learner': own(lambda: GradientAccumulation(8)),
    'SaveModelCallback on the learner': own(SaveModelCallback),
    'two trackers': cb(lambda: [SaveModelCallback(),EarlyStoppingCallback(patience=3)]),
    'MixUp and GradientAccumulation': cb(lambda: [MixUp(),GradientAccumulation(8)]),
    'mean of the weights': cb(EMA),
    'callback that sets the loss': cb(SetsLoss),
    'callback that scales the loss': cb(ScaleLoss),
    'callback that skips batches': cb(SkipsBatches),
    'callback that counts epochs': cb(AtEpoch),
    'callback with a state_dict': cb(KeepsState),
    'callback that changes the input': cb(JitterInput),
    'LabelSmoothingCrossEntropyFlat': loss(LabelSmoothingCrossEntropyFlat),
    'FocalLossFlat': loss(FocalLossFlat),
    'weighted CrossEntropyLossFlat': loss(weighted_loss),
    'several metrics': metric(lambda: [accuracy,error_rate,F1Score(),RocAucBinary()]),
    'no metrics': metric(list),
    'SGD': opt(SGD),
    'RMSProp': opt(RMSProp),
    'Lamb': opt(lamb),
    'Larc': opt(Larc),
    'ranger': opt(ranger),
    'Adam with its own arguments': opt(partial(Adam, sqr_mom=.95, eps=1e-6)),
    'AdamW of torch': opt(adamw),
    'SGD of torch': opt(nesterov),
    'schedulefree': lambda learn: opt(schedule_free)(learn)+own(ScheduleFree)(learn),
    'freeze before': frozen_start,
}

# Options of `fit_progressive`

class Option:
    "Arguments, the sizes that they train at, the size of each validation, and what is done before"
    def __init__(self, expect=(32,48), valid=None, before=None, prepare=None, stop_at=None, args=None,
                 **kwargs):
        self.sizes,self.valid,self.stop_at = [short_size(o) for o in expect],valid,stop_at
        self.before,self.prepare,self.args,self.kwargs = before,prepare,args,kwargs
    def __call__(self, d): return {**two, **(self.args(d) if self.args else {}), **self.kwargs}

class By:
    "A `get_dls`"
    def __init__(self, d, **kwargs): self.d,self.kwargs = d,kwargs
    def __call__(self, size, bs):
        cat,splitter = self.kwargs.get('cat', CategoryBlock),self.kwargs.get('splitter', last_four)
        if isinstance(splitter, dict): splitter = splitter.get(size, last_four)
        b = DataBlock((ImageBlock,cat), get_y=label, item_tfms=Resize(56), batch_tfms=aug_transforms(size=size),
                      splitter=splitter)
        return b.dataloaders(jpegs(self.d), path=self.d, bs=bs, num_workers=0)
def by(**kwargs): return lambda d: dict(get_dls=By(d, **kwargs))
def same_size(d): return dict(get_dls=lambda size,bs: resized(**book)(d, 'single label'))
def fails(size, bs): raise KeyError('no list')
def before_preflight(learn, args):
    pre = learn.preflight(**args, seconds=.01)
    assert list(pre.df['size'])==[32,48] and (pre.df['epoch']>0).all()
def before_lr_find(learn, args): assert learn.lr_find(num_it=4, show_plot=False).valley>0
def before_fit(learn, args): learn.fit_one_cycle(1)
def before_validate(learn, args): assert learn.validate()[0]>0
def before_stages(learn, args): assert show_stages(learn.dls, args['sizes'], n=2).shape==(2,2)
def before_run(learn, args):
    learn.fit_progressive(1, sizes=40)
    assert list(learn.stage_history['size'])==[40]
def before_other_run(learn):
    with suppress(KeyboardInterrupt): learn.fit_progressive(3, sizes=(24,48), checkpoint='run', cbs=StopAt(3))

options = {
    'two sizes': Option(),
    'default sizes': Option((24,36,48), n_epoch=3, sizes=None),
    'default sizes, one epoch': Option((48,), n_epoch=1, sizes=None),
    'three sizes': Option((24,32,48), n_epoch=3, sizes=(24,32,48)),
    'rectangles': Option(((24,32),(36,48)), sizes=((24,32),(36,48))),
    'a square, then a rectangle': Option((32,(48,56)), sizes=(32,(48,56))),
    'beyond the final size': Option((32,64), sizes=(32,64)),
    'below the final size': Option((24,32), sizes=(24,32)),
    'one size': Option((48,), n_epoch=1, sizes=48),
    'epochs per size': Option(n_epoch=(1,1)),
    'Stages': Option((48,32), n_epoch=[Stage(48, 1),Stage(32, 1)], sizes=None),
    'Stages with lr and fit': Option(n_epoch=[Stage(32, 1, lr=1e-3, fit='fit_one_cycle'),
                                              Stage(48, 1, lr=1e-3, fit='fine_tune')], sizes=None),
    'a Plan': Option(n_epoch=Plan(2, (32,48)), sizes=None),
    'fit=flat_cos': Option(fit='flat_cos'),
    'fit=single_cycle': Option(fit='single_cycle'),
    'fit=fine_tune': Option(n_epoch=(1,1), fit='fine_tune'),
    'fit=fit_one_cycle': Option(fit='fit_one_cycle'),
    'valid_size=stage': Option(valid_size='stage'),
    'valid_size=final': Option(valid=48, valid_size='final'),
    'valid_size=64': Option(valid=64, valid_size=64),
    'fast=False': Option(fast=False),
    'aug': Option(aug=(.3,1.)),
    'bs per size': Option(bs=(8,4)),
    'bs=2': Option(bs=2),
    'bs=auto': Option(bs='auto'),
    'bs of one image': Option(bs=(4,1)),
    'lr_max': Option(lr_max=1e-2),
    'lr_max per size': Option(n_epoch=(1,1), lr_max=(3e-3,1e-3), fit='fine_tune'),
    'slice as lr_max': Option(lr_max=slice(1e-4, 1e-3), fit='fit_one_cycle'),
    'wd': Option(wd=.1),
    'moms': Option(moms=(.9,.8,.9), fit='single_cycle'),
    'pct_start and div': Option(pct_start=.5, div=10, div_final=100, fit='single_cycle'),
    'freeze_epochs=0': Option(n_epoch=(1,1), fit='fine_tune', freeze_epochs=0),
    'reset_opt': Option(before=before_fit, reset_opt=True),
    'check=False': Option(check=False),
    'checkpoint': Option(checkpoint='run'),
    'resume': Option(stop_at=3, checkpoint='run', resume=True),
    'resume at the first size': Option(stop_at=3, checkpoint='run', resume=True, n_epoch=(2,1)),
    'resume at valid_size=final': Option(valid=48, stop_at=3, checkpoint='run', resume=True, valid_size='final'),
    'preflight before': Option(before=before_preflight),
    'preflight with accumulation before': Option(before=before_preflight, bs='auto'),
    'lr_find before': Option(before=before_lr_find),
    'a fit before': Option(before=before_fit),
    'validate before': Option(before=before_validate),
    'show_stages before': Option(before=before_stages),
    'a run before': Option(before=before_run),
    'get_dls=': Option(args=by()),
    'get_dls=, valid_size=final': Option(valid=48, args=by(), valid_size='final'),
    "get_dls= of torch's loaders": Option(args=lambda d: dict(get_dls=partial(torch_dls, d))),
    "get_dls= of torchvision": Option(args=lambda d: dict(get_dls=partial(vision_dls, d))),
    "get_dls= of torch's loaders, preflight before": Option(args=lambda d: dict(get_dls=partial(torch_dls, d)),
                                                           before=before_preflight),
    "get_dls= of torch's loaders, resume": Option(args=lambda d: dict(get_dls=partial(torch_dls, d)), stop_at=3,
                                                 checkpoint='run', resume=True),
    'get_dls= with a split for each size': Option(args=by(splitter={32: IndexSplitter(range(4))})),
    'get_dls= without a seed': Option(args=by(splitter=RandomSplitter(.34))),
    'get_dls= of one size': Option(args=same_size),
    'get_dls= of another vocab': Option(args=by(cat=CategoryBlock(vocab=['b','a'], sort=False))),
    'get_dls= that fails': Option(get_dls=fails),
    'sizes that shrink': Option(args=lambda d: dict(sizes=(48,32))),
    'fewer epochs than sizes': Option(n_epoch=1),
    'bs above the images': Option(bs=9),
    'a size of no px': Option(args=lambda d: dict(sizes=(0,48))),
    'lr_max per size, one schedule': Option(lr_max=(3e-3,1e-3)),
    'an unknown fit': Option(fit='cosine'),
    'an unknown valid_size': Option(valid_size='last'),
    'resume without checkpoint': Option(resume=True),
    'checkpoint of another run': Option(prepare=before_other_run, checkpoint='run', resume=True),
    'checkpoint of a run that has not ended': Option(prepare=before_other_run, checkpoint='run'),
}

# What is done after

def n_valid(learn): return len(learn.dls.valid.dataset)
def an_item(learn):
    items = learn.dls.valid.items
    return items.iloc[0] if isinstance(items, pd.DataFrame) else items[0]
def _first(o): return o[0] if isinstance(o, (tuple,list,L)) else o

def validate(learn): assert len(learn.validate())==1+len(learn.metrics) and learn.validate()[0]>=0
def validate_train(learn): assert learn.validate(ds_idx=0)[0]>=0
def get_preds(learn):
    p,y = learn.get_preds()
    assert len(p)==len(_first(y))==n_valid(learn) and torch.isfinite(TensorBase(p)).all()
def get_new_preds(learn):
    dl = learn.dls.test_dl([an_item(learn)]*3)
    assert len(learn.get_preds(dl=dl)[0])==3 and tuple(first(dl)[0].shape[-2:])==hw(final_size(learn))
def predict(learn):
    res = learn.predict(an_item(learn))
    assert len(res)>=3 and torch.isfinite(TensorBase(res[2]).float()).all()
def tta(learn):
    p,y = learn.tta(n=2)
    assert len(p)==n_valid(learn) and torch.isfinite(TensorBase(p)).all()
def export(learn):
    learn.export('x.pkl')
    with zipfile.ZipFile(learn.path/'x.pkl') as z:
        made_of = z.read(first(o for o in z.namelist() if o.endswith('data.pkl')))
    assert b'fastai_progresize' not in made_of, 'fastai alone cannot load it'
    new = load_learner(learn.path/'x.pkl')
    a,b = (o.predict(an_item(learn))[2] for o in (learn,new))
    assert torch.allclose(TensorBase(a).float(), TensorBase(b).float(), atol=1e-4)
def export_and_train(learn):
    learn.export('x.pkl')
    new,items = load_learner(learn.path/'x.pkl'),learn.dls
    new.dls = items
    new.fit(1)
def interpret(learn):
    i = ClassificationInterpretation.from_learner(learn)
    assert i.confusion_matrix().sum()==n_valid(learn)
    i.plot_top_losses(2)
def lr_find(learn): assert learn.lr_find(num_it=4, show_plot=False).valley>0
def fit_one_cycle(learn):
    learn.fit_one_cycle(1)
    assert len(learn.recorder.values)==1 and 'size' not in learn.recorder.metric_names
def fit_flat_cos(learn):
    learn.fit_flat_cos(1)
    assert len(learn.recorder.values)==1
def fine_tune(learn):
    learn.unfreeze()
    learn.fine_tune(1)
    assert all(o.requires_grad for o in learn.model.parameters()) and len(learn.recorder.values)==1
def freeze(learn):
    learn.freeze()
    learn.fit(1)
    learn.unfreeze()
    assert all(o.requires_grad for o in learn.model.parameters())
def save_load(learn):
    before = weights(learn)
    learn.save('m')
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(1)
    learn.load('m')
    assert same_weights(before, weights(learn))
def again(learn):
    learn.fit_progressive(2, sizes=(32,40))
    assert list(learn.stage_history['size'])==[32,40] and final_size(learn)==40
def show_results(learn): learn.show_results(max_n=2)
def show_batch(learn): learn.dls.show_batch(max_n=2)
def plot_stages(learn): assert len(learn.plot_stages())==1+len(learn.metrics)
def plot_loss(learn):
    learn.recorder.plot_loss()
    learn.recorder.plot_sched()
def preflight(learn): assert list(learn.preflight(2, (32,48), seconds=.01).df['size'])==[32,48]
def preflight_minutes(learn): assert learn.preflight(minutes=1, sizes=(32,48), seconds=.01).seconds<=60
def validate_sizes(learn):
    df = learn.validate_sizes((32,48), show_plot=False)
    assert list(df.index)==[32,48] and (df.valid_loss>=0).all()
def recalibrated(learn): assert list(learn.validate_sizes((32,48), recalibrate=True).index)==[32,48]
def at_size(learn): assert first(learn.dls.at_size(64).train)[0].shape[-2:]==(64,64)
def summary(learn): assert 'Total params' in str(learn.summary())
def copied(learn): assert deepcopy(learn).validate()[0]==pytest_approx(learn.validate()[0])
def export_preds(learn):
    learn.export('x.pkl')
    new,dl = load_learner(learn.path/'x.pkl'),learn.dls.valid
    a,b = (TensorBase(o.get_preds(dl=dl)[0]).float() for o in (learn,new))
    assert len(a)==n_valid(learn) and torch.allclose(a, b, atol=1e-4)
def by_hand(learn):
    learn.dls = learn.dls.at_size(40)
    learn.fit(1)
    assert final_size(learn)==40
def pytest_approx(o):
    import pytest
    return pytest.approx(o, rel=1e-3)
def final_size(learn):
    dl = learn.dls.train
    with same_random(): b = dl.one_batch() if isinstance(dl, TfmdDL) else first(dl)
    return short_size(tuple(b[0].shape[-2:]))

afters = {
    'nothing': lambda learn: None,
    'validate': validate,
    'validate, training set': validate_train,
    'get_preds': get_preds,
    'get_preds of a test_dl': get_new_preds,
    'predict': predict,
    'tta': tta,
    'export': export,
    'export, get_preds': export_preds,
    'export, train again': export_and_train,
    'ClassificationInterpretation': interpret,
    'lr_find': lr_find,
    'fit_one_cycle': fit_one_cycle,
    'fit_flat_cos': fit_flat_cos,
    'unfreeze and fine_tune': fine_tune,
    'freeze and fit': freeze,
    'save and load': save_load,
    'fit_progressive': again,
    'show_results': show_results,
    'show_batch': show_batch,
    'plot_stages': plot_stages,
    'plot_loss': plot_loss,
    'preflight': preflight,
    'preflight(minutes=)': preflight_minutes,
    'validate_sizes': validate_sizes,
    'validate_sizes, recalibrate': recalibrated,
    'at_size': at_size,
    'summary': summary,
    'deepcopy': copied,
    'another size by hand': by_hand,
}

# The table

factors = dict(learner=learners, data=datas, task=tasks, callback=callbacks, option=options, after=afters)
base = {k: first(v) for k,v in factors.items()}

refused = dict(       # what the message of the `ValueError` says, of parts that do not work
    learner={
        'timm vit_tiny': 'fails on images of 32x32 px',
        'timm gmlp_ti16_224': 'fails on images of 32x32 px',
        'GANLearner.wgan': 'needs images',
        'linear layer of fixed size': 'takes those of 48x48 px',
        'takes 48 px only': 'takes those of 48x48 px',
        'takes 40 px or more': 'takes those of 48x48 px',
        'auxiliary head for 40 px or more': 'takes those of 48x48 px',
        'takes 64 px only': 'The model fails at every size',
    },
    data={
        "torch's loaders": 'pass a function as `get_dls=`',
        "torchvision's dataset": 'pass a function as `get_dls=`',
        'images of one size, no Resize': 'pass a function as `get_dls=`',
        "one's own resizing transform": 'pass a function as `get_dls=`',
        'a broken file': 'cannot be read as an image',
        'rows of numbers': 'needs images',
        'volumes': 'needs images',
        'noise': 'needs images',
    },
    option={
        'get_dls= with a split for each size': 'Leak: ',
        'get_dls= without a seed': 'Leak: ',
        'get_dls= of one size': 'let it use its `size`',
        'get_dls= of another vocab': 'CategoryBlock(vocab=learn.dls.vocab)',
        'get_dls= that fails': 'get_dls failed for size=32, bs=4',
        'sizes that shrink': 'do not grow: pass the smallest first',
        'fewer epochs than sizes': 'n_epoch=1 is less than the 2 sizes',
        'bs above the images': 'above the 8 images of the training set',
        'a size of no px': 'size=0',
        'lr_max per size, one schedule': 'an lr for each size needs a fit for each',
        'an unknown fit': "fit='cosine' is unknown",
        'an unknown valid_size': "valid_size='last': pass 'stage', 'final' or a size in px",
        'resume without checkpoint': 'resume=True: pass the `checkpoint`',
        'checkpoint of another run': 'is of another run',
        'checkpoint of a run that has not ended': 'pass resume=True to continue it',
    },
)

packages = {'timm':['timm'], 'TensorBoardCallback':['tensorboard'], 'schedulefree':['schedulefree'],
            'PILDicom':['pydicom','skimage'], 'transform of kornia':['kornia']}     # by how a part's name begins

@dataclass(frozen=True)
class Cell:
    "One run: a part of each factor, and the words that it is refused with, None if it works"
    learner:str; data:str; task:str; callback:str; option:str; after:str
    says:str=None
    always:bool=False     # or only with `-m long`?
    def __getitem__(self, factor): return getattr(self, factor)
    @property
    def others(self): return {k: self[k] for k in factors if self[k]!=base[k]}
    @property
    def id(self): return ', '.join(self.others.values()) or 'base'
    @property
    def packages(self):
        "What it needs installed"
        return [o for p in self.others.values() for k,v in packages.items() if p.startswith(k) for o in v]

def cell(says=None, always=False, **parts):
    "A cell of `parts`, the rest as in the base; `says` '' for a refused part that works in this cell"
    parts = {**base, **parts}
    for k,v in parts.items(): assert v in factors[k], f'{v} is no {k}'
    words = first(v[parts[k]] for k,v in refused.items() if parts[k] in v)
    return Cell(**parts, says=(words if says is None else says) or None, always=always)

def each(factor, names=None, **parts): return [cell(**{factor:o}, **parts) for o in names or list(factors[factor])[1:]]
def all_but(factor, *names): return [o for o in list(factors[factor])[1:] if o not in names]

of_other_tasks = ['unet_learner','GANLearner.from_learners','GANLearner.wgan','takes 64 px only']
classifiers = all_but('learner', *of_other_tasks)
working = [o for o in classifiers if o not in refused['learner']]
working_data = [o for o in all_but('data', 'noise') if o not in refused['data']]
exported_data = [o for o in working_data if o not in ('no validation set',"one's own datasets")]
working_options = [o for o in all_but('option') if o not in refused['option']]

def _learner_cells():
    yield from each('learner', classifiers)
    yield from each('learner', classifiers, option='preflight before')
    yield from each('learner', working, option='resume')
    yield from each('learner', [o for o in working if o not in not_exported], after='export')
    for t in ('segmentation','image to image'):
        yield cell(learner='unet_learner', task=t)
        yield from each('option', ['preflight before','resume'], learner='unet_learner', task=t)
        yield from each('after', ['export','show_results','validate_sizes'], learner='unet_learner', task=t)
    for t in ('multi label','regression','points'):
        yield from each('task', [t], learner='vision_learner')
        yield from each('task', [t], learner='timm resnet10t')
    yield cell(learner='takes 64 px only', option='beyond the final size', says='takes those of 64x64 px')
    yield from each('learner', ['linear layer of fixed size','takes 48 px only','timm vit_tiny'], option='one size',
                    says='')
    yield cell(learner='takes 40 px or more', option='Stages', says='takes those of 48x48 px')
    yield cell(learner='takes 48 px only', option='valid_size=final')
    yield cell(learner='vision_learner', option='bs of one image', says='bs=1')
    yield cell(learner='GANLearner.from_learners', task='image to image')
    for o in ('preflight before','resume','valid_size=final','fast=False'):
        yield cell(learner='GANLearner.from_learners', task='image to image', option=o)
    yield cell(learner='GANLearner.wgan', data='noise', says='needs images')
    for o in ('fit=fine_tune','slice as lr_max','freeze_epochs=0'):
        for l in ('vision_learner','frozen vision_learner','timm convnext_atto'): yield cell(learner=l, option=o)
    for o in ('MixUp','to_fp16','mean of the weights','BnFreeze','SaveModelCallback'):
        last = 'xresnet18' if o in ('MixUp','to_fp16') else 'auxiliary head'
        yield from each('learner', ['vision_learner','timm efficientnet_b0',last], callback=o)

def _data_cells():
    yield from each('data', all_but('data', 'noise'))
    yield from each('data', all_but('data', 'noise'), option='preflight before')
    for a in ('export','get_preds'): yield from each('data', exported_data, after=a)
    yield cell(data="one's own datasets", after='get_preds')
    yield from each('data', ['RandomResizedCrop','RatioResize','from_df','get_dls','indices of separate datasets',
                             'images in a DataFrame','WeightedDL','two persistent workers','PIL images and labels',
                             "one's own datasets"], option='resume')
    for o in ('Resize','RandomResizedCrop','Flip(size), on batches only','transform of kornia'):
        for p in ('aug','fast=False','rectangles'): yield cell(data=o, option=p)
    for o in ("torch's loaders","torchvision's dataset"):
        by = "get_dls= of torch's loaders" if o[5]=="'" else 'get_dls= of torchvision'
        yield cell(data=o, option=by, says='')
        yield cell(data=o, option=by, after='validate', says='')
    yield cell(data='from_folder', option="get_dls= of torch's loaders", says='The vocab at 32 px is None')
    yield cell(data='Normalize', option='get_dls=', says='Normalize is missing in train at 32 px')
    yield cell(data='partial_dataloaders', option='bs per size', says='above the 6 images')
    for p in (', preflight before',', resume'):
        yield cell(data="torch's loaders", option="get_dls= of torch's loaders"+p, says='')

not_by_fastai = {'boxes':('predict','export','show_results'),      # fails after `learn.fit` too
                 'two targets':('predict','export','show_results'), 'regression':('show_results',)}
not_exported = ('input added by a callback','weight_norm')
def _task_cells():
    yield from each('task')
    for t in all_but('task'):
        yield from each('option', ['checkpoint','resume','preflight before','bs=auto','valid_size=final','fast=False',
                                   'rectangles','fit=fine_tune','aug'], task=t)
        yield from each('callback', ['to_fp16','GradientAccumulation','SaveModelCallback','AdamW of torch'], task=t)
        names = ('validate','get_preds','predict','export','export, get_preds','show_results','validate_sizes','tta')
        yield from each('after', [o for o in names if o not in not_by_fastai.get(t, ())], task=t)
    for t in ('multi label','regression','points','image to image'): yield cell(task=t, callback='MixUp')

stateful_cbs = ['MixUp','GradientAccumulation','SaveModelCallback','EarlyStoppingCallback','ReduceLROnPlateau',
                'CSVLogger','TensorBoardCallback','to_fp16','two trackers','callback with a state_dict','schedulefree',
                'ranger','AdamW of torch','Lamb','SGD','RMSProp','callback that sets the loss']
watching_cbs = ['MixUp','CSVLogger','GradientAccumulation','TensorBoardCallback','schedulefree',
                'AdamW of torch','SaveModelCallback','mean of the weights','callback that sets the loss',
                'ShowGraphCallback','to_fp16']
def _other_cells():
    yield from each('callback')
    yield from each('callback', stateful_cbs, option='resume')
    yield from each('callback', watching_cbs, option='preflight before')
    for o in ('MixUp on the learner','to_fp16','SaveModelCallback on the learner','GradientAccumulation on the learner',
              'AdamW of torch','schedulefree'):
        for a in ('export','fit_progressive','fit_one_cycle'): yield cell(callback=o, after=a)
    yield from each('option', [o for o in all_but('option') if not o.startswith('get_dls= of torch')])
    yield from each('after')

not_three_channels = ('black and white','pixels in columns','PILDicom','PNG with alpha','TIFF of four bands')
own_losses = ('auxiliary head','loss that counts','loss that learns','loss of torch','function of torch as loss',
              'dict as output','input added by a callback')
of_a_loss = ('MixUp','CutMix','MixUp on the learner','MixUp and GradientAccumulation','callback that sets the loss',
             'LabelSmoothingCrossEntropyFlat','FocalLossFlat','weighted CrossEntropyLossFlat')
of_items = ('predict','get_preds of a test_dl','export','ClassificationInterpretation','show_results','show_batch')
with_batchnorm = [o for o in learners if re.match('timm|torchvision|vision|xresnet|frozen vision', o)]
clashes = [           # parts that fastai alone does not take together
    ([o for o in learners if o.startswith('torchvision')], not_three_channels),
    (own_losses, of_a_loss),
    (own_losses, of_items),
    (("one's own datasets",), of_items),
    (('partial_dataloaders',), ('bs per size',)),
    (('bs of one image',), with_batchnorm),
]
def clash(parts): return any(set(parts)&set(a) and set(parts)&set(b) for a,b in clashes)

def _together():
    "Every part that works, side by side with others"
    left = dict(learner=working, data=[o for o in working_data if o not in ('no validation set','PILDicom')],
                callback=all_but('callback'), after=all_but('after'),
                option=[o for o in working_options if not o.startswith(('resume','get_dls'))])
    left = {k: list(v) for k,v in left.items()}
    while any(left.values()):
        parts = {}
        for k,names in left.items():
            o = first(o for o in names if not clash([*parts.values(), o]))
            if o: parts[k] = o; names.remove(o)
        yield cell(always=True, **parts)

def _alone():
    "Every part that is refused, and every part that goes with few others"
    always = partial(cell, always=True)
    for k,v in refused.items(): yield from each(k, [o for o in v if o not in ('noise',*of_other_tasks)], always=True)
    yield always(learner='GANLearner.wgan', data='noise', says='needs images')
    yield always(learner='GANLearner.from_learners', task='image to image', after='validate')
    yield always(learner='unet_learner', task='segmentation', callback='to_fp16', after='show_results')
    yield always(task='multi label', option='resume', after='predict')
    yield always(task='regression', option='resume at the first size', after='export')
    yield always(task='points', option='resume at valid_size=final', after='show_results')
    yield always(task='boxes', option='preflight before', after='get_preds')
    yield always(task='two targets', option='preflight before', after='get_preds')
    yield always(task='two images', callback='GradientAccumulation', option='preflight before', after='predict')
    yield always(task='image and number', callback='SaveModelCallback', option='preflight before', after='export')
    yield from each('data', ['no validation set','PILDicom'], always=True)
    yield from each('option', ['get_dls=','get_dls=, valid_size=final'], always=True)
    yield always(data="torch's loaders", option="get_dls= of torch's loaders, preflight before", says='')
    yield always(data="torch's loaders", option="get_dls= of torch's loaders, resume", says='')
    yield always(data="torch's loaders", option="get_dls= of torch's loaders", after='validate', says='')
    yield always(data="torchvision's dataset", option='get_dls= of torchvision', after='validate', says='')
    yield always(learner='takes 64 px only', option='beyond the final size', says='takes those of 64x64 px')

def _all_cells():
    res = {}
    for part in (_alone, _together, _learner_cells, _data_cells, _task_cells, _other_cells):
        for c in part(): res.setdefault(c.id, c)
    return [cell(), *res.values()]

cells = _all_cells()

# The table in words

headings = dict(learner='Learner', data='Data', task='Task', callback='Callback, optimizer or loss',
                option='Option of `fit_progressive`', after='Afterwards')

def _says(factor, part):
    "What the error says of a part in its simplest cell, '' if it works"
    return min((c for c in cells if c[factor]==part), key=lambda c: len(c.others)).says

def as_markdown():
    "A table for each factor: the parts that work in a row, then those that are refused, by what the error says"
    def _table(factor):
        rows = {}
        for o in factors[factor]: rows.setdefault(_says(factor, o), []).append(o)
        rows = [(f'refused: "{k}"' if k else 'works', '; '.join(v)) for k,v in rows.items()]
        return '\n'.join([f'| {headings[factor]} | |', '|---|---|', *(f'| {a} | {b} |' for a,b in rows)])
    return '\n\n'.join([f'{len(cells)} runs', *map(_table, factors)])+'\n'
