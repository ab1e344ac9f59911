"""Photographs of solar cells: 2,624 grey ones, 300 by 300 px, on which cracks and dead areas are dark, each labelled
with the probability that the cell is defective (Deitsch et al. 2019, https://doi.org/10.1016/j.solener.2019.02.067,
and 2021, https://doi.org/10.1007/s00138-021-01191-9). They are on PyPI, under CC BY-NC-SA 4.0: pip install elpv-dataset

Such data are what progressive resizing is for: details matter, and no pretrained model knows such images."""
from fastai.vision.all import *
from sklearn.model_selection import train_test_split
from fastai_progresize.samples import data_folder, whole_dir
from fastai_progresize.args import check_count

def elpv_table():
    "A table of the photographs and their labels. Raises `ImportError` if they are not installed"
    try: from elpv_dataset import utils
    except ImportError as e:
        raise ImportError("The photographs are not installed: pip install elpv-dataset") from e
    data = Path(utils.__file__).parent/'data'
    df = pd.read_csv(data/'labels.csv', sep=r'\s+', names=['file','probability','kind'])
    return df.assign(file=[data/o for o in df.file], label=np.where(df.probability>=.5, 'defective', 'functional'))

def elpv(
    seed:int=42, # Seed of the split
    path:str|Path=None, # Folder to put datasets in; None: `fastai_cfg`'s data folder (`~/.fastai/data`)
)->Path: # Folder with `train` (75%) and `val`, `defective` (a probability of at least .5) and `functional` in each
    "Photographs of solar cells in Imagenette's layout; the split is stratified by defect probability and module type"
    check_count('seed', seed, 0, 2**32-1)
    path = data_folder(path)/f'elpv-{seed}'
    if path.exists(): return path
    df = elpv_table()
    parts = train_test_split(df, test_size=.25, random_state=seed, stratify=df[['probability','kind']])
    with whole_dir(path) as tmp:
        for split,part in zip(('train','val'), parts):
            for o in part.itertuples():
                (tmp/split/o.label).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(o.file, tmp/split/o.label/o.file.name)
    return path
