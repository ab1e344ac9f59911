# `make demo` and `make test` set everything up; they need Python 3.10+ and internet access
PYTHON ?= python3
BIN := .venv/bin
export PYTHONWARNINGS ?= ignore
export OMP_WAIT_POLICY ?= passive# threads that wait leave the cores to the processes that load

.PHONY: demo test quick test-long bench evidence notebooks readme docs clean
.DELETE_ON_ERROR:

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python settings.ini setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/.dev: .venv/bin/python settings.ini setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ .venv/.installed

demo: .venv/.installed          # train on sample images through growing sizes
	$(BIN)/progresize-demo

test: .venv/.dev                # run notebooks and tests: 12 minutes on 2 cores, two processes with a thread each
	QUICK=1 OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs

quick: .venv/.dev               # what is relied on in fastai, and equality with loops written by hand: half a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/test_private.py tests/test_equal.py

test-long: .venv/.dev           # the tests that take minutes, one by one: two large models do not fit in 24 GiB
	$(BIN)/python -m pytest -m long

bench: .venv/.dev               # measure
	for o in overhead loading interpolation training switching; do $(BIN)/python benchmarks/$$o.py || exit 1; done

evidence: .venv/.dev            # progressive resizing against the final size throughout, under an hour on 2 cores
	$(BIN)/python benchmarks/evidence.py

notebooks: .venv/.dev           # run the notebooks and save their outputs
	$(BIN)/nbdev-export
	$(BIN)/python tools/run_nbs.py

readme: .venv/.dev              # write README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: .venv/.dev                # build the site into _docs
	$(BIN)/python tools/docs.py

clean:
	rm -rf .venv build dist *.egg-info _docs _proc
