"""Drawings in 12 classes, of which no recipe was chosen: the clip art of Debian's and Ubuntu's package openclipart-png
(0.18, https://openclipart.org, public domain), which is downloaded and unpacked, not installed.

At most 400 of a class by a hash of their names, a fifth of them to validate, on white, the short side at most 320 px.
Equal files count once; what Pillow takes for a decompression bomb is left out."""
import hashlib, subprocess
from fastai.vision.all import *
from fastai_progresize.samples import data_folder, whole_dir

classes = ('animals','buildings','computer','food','geography','people','plants','recreation','shapes',
           'signs_and_symbols','tools','transportation')

def _digest(b): return hashlib.sha256(b).hexdigest()

def unpacked(folder):
    "The folder of classes in the package, which is downloaded to `folder`"
    subprocess.run(['apt-get','download','openclipart-png'], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    subprocess.run(['dpkg-deb','-x',first(folder.ls(file_exts='.deb')),folder], check=True)
    return folder/'usr/share/openclipart/png'

def chosen(folder, n=400):
    "`n` drawings of `folder` at most, by a hash of their names"
    files = {_digest(o.read_bytes()): o for o in sorted(folder.rglob('*.png'), reverse=True) if not o.is_symlink()}
    return sorted(files.values(), key=lambda o: _digest(o.name.encode()))[:n]

def _save(fn, to):
    "A copy of `fn` on white, the short side at most 320 px"
    try: im = Image.open(fn).convert('RGBA')
    except Image.DecompressionBombError: return
    im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB')
    by = min(1, 320/min(im.size))
    im.resize([max(1, round(o*by)) for o in im.size], Image.LANCZOS).save(to, quality=92)

def drawings(
    path:str|Path=None, # Folder to put datasets in; None: `fastai_cfg`'s data folder (`~/.fastai/data`)
)->Path: # Folder with `train` and `val`, in each a folder per class
    "Drawings in Imagenette's layout"
    path = data_folder(path)/'drawings-400'
    if path.exists(): return path
    with whole_dir(path) as tmp, tempfile.TemporaryDirectory() as d:
        root = unpacked(Path(d))
        for c in classes:
            for o in chosen(root/c):
                split = 'val' if int(_digest(o.name.encode())[-8:], 16)%5==0 else 'train'
                (tmp/split/c).mkdir(parents=True, exist_ok=True)
                _save(o, tmp/split/c/f'{o.stem}.jpg')
    return path

@call_parse
def main():
    "Make them, and print how many there are"
    path = drawings()
    print(path, {o: len(get_image_files(path/o)) for o in ('train','val')})
