# Everything sets itself up: a fresh machine needs Python 3.8 or newer (with venv) and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# The user's own folder for the demo: make demo DATA=~/pictures
DATA   ?=

# The oldest and the newest Python that the tests are run on: pyenv's, or what is on the path.
LEGACY ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.8.*/bin/python) python3.8)
LATEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.13)

.PHONY: demo test test-full test-legacy test-latest lint bench bench-ffcv bench-gpu clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[fast,test]' --constraint constraints.txt
	touch $@

$(VENV)-legacy/ready: pyproject.toml constraints-legacy.txt
	$(LEGACY) -m venv $(VENV)-legacy
	$(VENV)-legacy/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-legacy/bin/python -m pip install --quiet --editable '.[fast,test]' --constraint constraints-legacy.txt
	touch $@

$(VENV)-latest/ready: pyproject.toml constraints.txt
	$(LATEST) -m venv $(VENV)-latest
	$(VENV)-latest/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-latest/bin/python -m pip install --quiet --editable '.[fast,test]' --constraint constraints.txt
	touch $@

# FFCV, to compare with: it compiles against Debian's libopencv-dev and libturbojpeg0-dev, found by pkg-config.
$(VENV)-ffcv/ready:
	$(PYTHON) -m venv $(VENV)-ffcv
	$(VENV)-ffcv/bin/python -m pip install --quiet 'setuptools<82' wheel
	$(VENV)-ffcv/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1 numba opencv-python-headless
	$(VENV)-ffcv/bin/python -m pip install --quiet --no-build-isolation ffcv==1.0.2
	touch $@

demo: $(VENV)/ready
	$(RUN) -W ignore examples/demo.py $(DATA)

lint: $(VENV)/ready
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

# The pairwise sample of the matrices: under ten minutes on two cores.
test: lint
	$(RUN) -m pytest -q -n 2 --dist worksteal -m "not full"

# All of them.
test-full: lint
	$(RUN) -m pytest -q -n 2 --dist worksteal

# The same on Python 3.8, torch 1.8.1 and fastai 1.0.60.
test-legacy: $(VENV)-legacy/ready
	OMP_NUM_THREADS=1 $(VENV)-legacy/bin/python -m pytest -q -n 2 --dist worksteal -m "not full"

# And on the newest Python that fastai 1 can be imported on.
test-latest: $(VENV)-latest/ready
	$(VENV)-latest/bin/python -m pytest -q -n 2 --dist worksteal -m "not full"

bench: $(VENV)/ready
	$(RUN) -W ignore benchmarks/figures.py

# What FFCV's row of the figures needs, once, beforehand.
bench-ffcv: $(VENV)-ffcv/ready

# The figures of batch_tfms=True that need a GPU.
bench-gpu: $(VENV)/ready
	$(RUN) -W ignore benchmarks/gpu.py

clean:
	rm -rf $(VENV) $(VENV)-legacy $(VENV)-latest $(VENV)-ffcv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
