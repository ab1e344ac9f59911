"""What a checkpoint costs: the seconds that saving takes at the end of each epoch, for xresnet18 with Adam, as a
share of an epoch of a minute; and how much is written."""
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastai_progresize.all import *
from fastai_progresize.resume.checkpoint import checkpoint_file
from fastai_progresize.samples import glyphs
from table import save_rows

def saved(epochs):
    "Seconds of each save, of a run of so many epochs in two stages, and the size of the file"
    times,save = [],Checkpoint.save
    def timed(self, *args):
        t = time.perf_counter()
        save(self, *args)
        times.append(time.perf_counter()-t)
    Checkpoint.save = timed
    try:
        with tempfile.TemporaryDirectory() as d:
            dls = get_dls(64, 32, glyphs(200, 60))
            learn = Learner(dls, xresnet18(n_out=10), loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=d)
            with learn.no_bar(), learn.no_logging(): learn.fit_progressive(epochs, (32,64), checkpoint='a')
            return times,checkpoint_file(learn, 'a').stat().st_size/2**20
    finally: Checkpoint.save = save

@call_parse
def main(
    epochs:int=12, # Saves to time
):
    "Measure, print and save"
    times,size = saved(epochs)
    s = np.array(times)
    save_rows('checkpoint', [
        dict(measure='seconds of a checkpoint', what=f'xresnet18, {size:.0f} MiB', target='at most 0.6',
             value=np.median(s), low=s.min(), high=s.max()),
        dict(measure='share of an epoch of 60 s', what='xresnet18', target='at most 0.01',
             value=np.median(s)/60, low=s.min()/60, high=s.max()/60),
    ])
