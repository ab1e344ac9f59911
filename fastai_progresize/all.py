"Everything of `fastai_progresize`, to be imported as `fastai.vision.all` is"
from fastai_progresize.schedule import *
from fastai_progresize.image import *
from fastai_progresize.augment import *
from fastai_progresize.data import *
from fastai_progresize.check import *
from fastai_progresize.history import *
from fastai_progresize.preflight import *
from fastai_progresize.checkpoint import *
from fastai_progresize.learner import *
from fastai_progresize.samples import *
from fastai_progresize.book import *
