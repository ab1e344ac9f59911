"What a notebook needs of `fastai_progresize`, to be imported as `fastai.vision.all` is"
from fastai_progresize.stage import *
from fastai_progresize.plan import *
from fastai_progresize.phase import *
from fastai_progresize.files import *
from fastai_progresize.data import *
from fastai_progresize.fast.copies import *
from fastai_progresize.fast.loaders import *
from fastai_progresize.run import *
from fastai_progresize.history import *
from fastai_progresize.preflight import *
from fastai_progresize.checkpoint import *
from fastai_progresize.learner import *
