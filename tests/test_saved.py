"What a run says that it saved, by made-up clocks"
import pytest
from helpers import *
from fastai_progresize.report import history

class Clock:
    "A clock that a run moves: at each training batch it waits for data, then the model takes its time"
    def __init__(self, loading, model): self.loading,self.model,self.now = loading,model,0.
    def __call__(self): return self.now

class Tick(Callback):
    "Move `clock` by the seconds of an image size; `once` more for the first epoch of each"
    order,run_valid = Recorder.order-1,False
    def __init__(self, clock, once=0.): self.clock,self.once,self.seen = clock,once,{}
    def _px(self): return self.x.shape[-1]
    def before_batch(self):
        first = self.seen.setdefault(self._px(), self.epoch)==self.epoch
        self.clock.now += self.clock.loading.get(self._px(), 0.) + self.once*first
    def after_pred(self): self.clock.now += self.clock.model[self._px()]

@pytest.fixture
def fit(path, monkeypatch, capsys):
    "What a run with made-up times says, and its Learner"
    def _fit(n_epoch, sizes, loading={}, model={24:1., 48:4.}, once=0., frozen=False, cbs=(), **kwargs):
        clock = Clock(loading, model)
        monkeypatch.setattr(history, 'perf_counter', clock)
        learn = new_learner(path, 2, frozen=frozen)
        with learn.no_bar():
            logger,learn.logger = learn.logger,lambda *args: None
            learn.fit_progressive(n_epoch, sizes, cbs=[Tick(clock, once), *cbs], **kwargs)
        return learn,capsys.readouterr().out
    return _fit

def n_batches(path): return len(get_dls(24, 8, path, num_workers=0).train)

def test_from_scratch(fit, path):
    "4 epochs of a second per batch and 4 of four seconds, beside 8 of four seconds"
    learn,says = fit((4,4), (24,48), fit='fit_one_cycle')
    b = n_batches(path)
    assert learn.stage_history.attrs==dict(seconds=20.*b, seconds_at_last_size=32.*b, saved=.375)
    assert f"8 epochs in {history.in_words(20*b)}; at 48 px alone about {history.in_words(32*b)} (38% less)" in says
    assert 'waited' not in says and 'does not follow' not in says
    title = learn.plot_stages()[0].figure.get_suptitle()
    assert title and title in says
    plt.close('all')

def test_columns(fit, path):
    learn,_ = fit((1,2), (24,48), loading={24:.5, 48:1.}, fit='fit_one_cycle')
    df,b = learn.stage_history,n_batches(path)
    assert list(df.columns[-3:])==['seconds','loading','images/s'] and 'frozen' not in df
    assert list(df.loading)==[.5*b,b,b] and list(df.seconds)==[1.5*b,5*b,5*b]

def test_median(fit):
    "The first epoch of each size is slower, and does not count"
    learn,_ = fit((1,3), (24,48), fit='fit_one_cycle', once=100.)
    df = learn.stage_history
    assert df.attrs['seconds_at_last_size']==4*df.seconds.iloc[-1] and df.seconds[1]>df.seconds[2]

def test_frozen_epochs_are_left_out(fit, path):
    "The frozen epoch counts as it is, and is not what the last size takes"
    learn,_ = fit(8, (24,48), frozen=True)
    df = learn.stage_history
    frozen = [r['frozen'] for r in learn.stage_rows]
    assert frozen==[True]+[False]*8
    whole = df.seconds[[not o for o in frozen]]
    last = df.seconds[df.stage==1].median()
    assert learn.stage_history.attrs['seconds_at_last_size']==df.seconds[0]+last*len(whole)

@pytest.mark.parametrize('n_epoch,sizes', [(3,[48]), ((2,1),(24,48))])
def test_nothing_to_judge_by(fit, n_epoch, sizes):
    "One stage saves nothing, and a single epoch at the last size is too little"
    learn,says = fit(n_epoch, sizes, fit='fit_one_cycle')
    assert learn.stage_history.attrs=={} and 'px alone about' not in says
    assert learn.plot_stages()[0].figure.get_suptitle()==''
    plt.close('all')

def test_frozen_throughout(fit):
    "A body that stays frozen at all sizes has epochs to judge by"
    learn,_ = fit((2,2), (24,48), frozen=True, fit='fit_one_cycle')
    assert learn.stage_history.attrs['saved']==pytest.approx(1-10/16)

def test_hint_at_copies(fit):
    "Above a third of a stage, once"
    _,says = fit((2,2), (24,48), loading={24:2., 48:3.}, fit='fit_one_cycle')
    assert says.count('decoded copies load faster')==1
    assert 'Training waited for data for 67% of the time at 24 px' in says
    assert 'waited' not in fit((2,2), (24,48), loading={24:.4, 48:1.9}, fit='fit_one_cycle')[1]

def test_copies_are_filled(fit, tmp_path):
    "The first epoch of a stage decodes; with copies the hint does not name them"
    args = dict(fit='fit_one_cycle', fast=dict(cache=tmp_path/'copies', decoded=True))
    assert 'waited' not in fit((3,3), (24,48), once=50., **args)[1]
    _,says = fit((3,3), (24,48), loading={24:3.}, **args)
    assert 'waited for data for 75% of the time at 24 px' in says and 'copies load' not in says

@pytest.mark.parametrize('model,less', [({24:3.9, 48:4.}, '1% less'), ({24:4.4, 48:4.}, '5% more')])
def test_saves_little(fit, model, less):
    _,says = fit((2,2), (24,48), model=model, fit='fit_one_cycle')
    assert f'({less})' in says and "The time of the model does not follow the pixels: try a larger `bs`" in says

def test_resumed(fit, path, tmp_path):
    "The epochs before the interrupt count too"
    args = dict(n_epoch=(2,2), sizes=(24,48), fit='fit_one_cycle', checkpoint=tmp_path/'a')
    with pytest.raises(KeyboardInterrupt): fit(**args, cbs=[StopAt(3*n_batches(path)+1)])
    learn,says = fit(**args, resume=True)
    assert learn.stage_history.attrs['saved']==pytest.approx(1-10/16) and '4 epochs in' in says

def test_stopped_early(fit):
    "A run that does not reach its last size says nothing"
    _,says = fit((3,2), (24,48), fit='fit_one_cycle', cbs=[EarlyStoppingCallback(min_delta=99., patience=0)])
    assert 'px alone about' not in says

def test_says_nothing_without_logging(path, capsys):
    learn = new_learner(path, 1)
    with learn.no_bar(), learn.no_logging(): learn.fit_progressive((1,2), (24,48), fit='fit_one_cycle')
    assert capsys.readouterr().out==''

def test_only_one_process_says_it(fit, monkeypatch):
    from fastai_progresize import learner
    monkeypatch.setattr(learner, 'rank_distrib', lambda: 1)
    assert 'px alone' not in fit((2,2), (24,48), fit='fit_one_cycle')[1]

def test_validation_is_moved(path):
    "A callback that compares epochs validates at the final size, and the run says so"
    def _says(*cbs, **kwargs): return repr(Run(new_learner(path, 1, cbs), 4, (24,48), **kwargs))
    assert "Validation at 48 px in all stages, as `save_model` compares them" in _says(SaveModelCallback())
    assert 'Validation at' not in _says() + _says(SaveModelCallback(), valid_size='stage')
    assert 'Validation at' not in repr(Run(new_learner(path, 1, [SaveModelCallback()]), 4, [48]))
