"What the front page says can be pasted, and is short"
import pytest, re, subprocess, sys
from pathlib import Path

readme = (Path(__file__).parent.parent/'README.md').read_text(encoding='utf-8')

# few images, measured for a moment: the code is the page's
few = """
import matplotlib; matplotlib.use('agg')
from functools import partialmethod
from fastai.learner import Learner
from fastai_progresize import samples
from fastai_progresize.all import *
draw = samples.glyphs
samples.glyphs = lambda **kwargs: draw(70, 20, **kwargs)
Learner.preflight = partialmethod(Learner.preflight, seconds=.05)
"""

def test_length(): assert len(readme.splitlines())<=120

@pytest.mark.parametrize('n', [1, pytest.param(9, marks=pytest.mark.long)])
def test_pasted(tmp_path, n):
    "The first block of Python, or all, one after the other, in an empty folder"
    blocks = re.findall(r'```python\n(.*?)```', readme, re.S)
    assert len(blocks)>=2 and 'fit_progressive' in blocks[0]
    code = few + '\n'.join(blocks[:n]) + '\nassert len(learn.stage_history)==12'
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]

def test_commands():
    "The commands that it names are there"
    make = (Path(__file__).parent.parent/'Makefile').read_text(encoding='utf-8')
    for o in re.findall(r'^make (\w+)', readme, re.M): assert f'\n{o}:' in make
