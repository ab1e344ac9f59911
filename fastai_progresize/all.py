"What a notebook needs of `fastai_progresize`, to be imported as `fastai.vision.all` is"
from fastai_progresize.stage import *
from fastai_progresize.plan import *
from fastai_progresize.schedule import *
from fastai_progresize.load.files import *
from fastai_progresize.data import *
from fastai_progresize.load.cache import *
from fastai_progresize.load.fast import *
from fastai_progresize.load.folder import *
from fastai_progresize.aug import *
from fastai_progresize.run import *
from fastai_progresize.report.history import *
from fastai_progresize.report.validate import *
from fastai_progresize.report.show import *
from fastai_progresize.preflight import *
from fastai_progresize.callbacks import *
from fastai_progresize.resume.checkpoint import *
from fastai_progresize.learner import *
