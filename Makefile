# Everything sets itself up: a fresh machine needs Python 3.11 or newer (with venv) and make, nothing else; `make demo` and
# the package itself run on Python 3.8.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# For the demo. A folder of one's own: make demo DATA="~/my pictures". With CUDA: make demo GPU=1
DATA   ?=
GPU    ?=
# Where the demo runs: where `make test` runs, if that is there, else in an environment without test tools.
DEMO   := $(if $(wildcard $(VENV)/ready),$(VENV),$(VENV)-demo$(if $(GPU),-gpu))

# The oldest and the newest Python that the tests are run on: pyenv's, or what is on the path.
LEGACY ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.8.*/bin/python) python3.8)
LATEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) python3.13)

# Where `make package` tries what it has made.
OUTSIDE ?= build/outside

# What `make test-faults` is told besides: FAULTS=--quick makes each fault a few times, and leaves the page as it is.
FAULTS ?=

PYTEST := -m pytest -q -n 2 --dist worksteal
# The quick form of the tests; without it, the long matrices run, too.
SAMPLE := -m "not full"

# What tests the tools of this repository, which run on one Python: it is left out on the others.
TOOLS := $(foreach name,benchmarks ci claims reliability,--ignore=tests/test_$(name).py)

# The quick form by the Python $(1), with the options $(2). The tests of the store make thousands of forks, which are
# faster in a process without torch: they run first, in processes of their own.
define quick
PYTHONPATH=$(CURDIR)/tests/without_fastai $(1) $(PYTEST) $(SAMPLE) tests/store; stores=$$?; \
    $(1) $(PYTEST) $(SAMPLE) $(2) --ignore=tests/store && exit $$stores
endef

.PHONY: demo docs environments notebooks dist package package-full test test-full test-fastai1 test-fastai2 test-faults \
        test-legacy test-latest what-test-does lint bench bench-quick bench-ffcv bench-gpu bench-doors bench-fastai2 clean

# Make an environment of Python BY with the packages WITH, and show what pip says only if it fails.
define environment
@echo "Making the environment $(@D). The first one with torch downloads up to 3 GB, in some minutes."
@$(BY) -m venv $(@D) || { echo "'$(BY) -m venv' failed. Install this Python with its venv module, or name another one:" \
    "make PYTHON=… (3.11 or newer), LEGACY=… (3.8), LATEST=… (3.13)"; exit 1; }
@$(@D)/bin/python -m pip install --quiet --upgrade pip > $(@D)/pip.log 2>&1 || { cat $(@D)/pip.log; exit 1; }
@$(@D)/bin/python -m pip install --quiet $(WITH) > $(@D)/pip.log 2>&1 || { cat $(@D)/pip.log; exit 1; }
@touch $@
endef

FASTAI1 := --editable '.[fastai1,fast,test]' --constraint
FASTAI2 := --editable '.[fastai2,torchvision,fast,test]' --constraint

$(VENV)/ready: BY = $(PYTHON)
$(VENV)/ready: WITH = $(FASTAI1) constraints.txt
$(VENV)/ready: pyproject.toml constraints.txt
	$(environment)

$(VENV)-legacy/ready: BY = $(LEGACY)
$(VENV)-legacy/ready: WITH = $(FASTAI1) constraints-legacy.txt
$(VENV)-legacy/ready: pyproject.toml constraints-legacy.txt
	$(environment)

# fastai 2 has an environment of its own: it can't be installed beside fastai 1.
$(VENV)-fastai2/ready: BY = $(PYTHON)
$(VENV)-fastai2/ready: WITH = $(FASTAI2) constraints-fastai2.txt
$(VENV)-fastai2/ready: pyproject.toml constraints-fastai2.txt
	$(environment)

$(VENV)-latest/ready: BY = $(LATEST)
$(VENV)-latest/ready: WITH = $(FASTAI1) constraints.txt
$(VENV)-latest/ready: pyproject.toml constraints.txt
	$(environment)

# What looks at the metadata of a release.
$(VENV)-twine/ready: BY = $(PYTHON)
$(VENV)-twine/ready: WITH = twine
$(VENV)-twine/ready:
	$(environment)

# The environments of the tests, for .ci/run, two at a time: to unpack and compile what was downloaded takes one processor.
environments:
	@$(MAKE) --no-print-directory --jobs=2 $(VENV)/ready $(VENV)-fastai2/ready $(VENV)-legacy/ready

# The loaders that memlist is compared with, each in an environment of its own; where one can't be made, the page says why.
# FFCV has no wheels: it compiles against Debian's libopencv-dev and libturbojpeg0-dev, found by pkg-config.
RIVALS := rivals tf ffcv
$(RIVALS:%=$(VENV)-%/ready): $(VENV)-%/ready: benchmarks/rivals/%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet 'setuptools<82' wheel
	$(VENV)-$*/bin/python -m pip install --quiet --no-build-isolation -r $< 2> $(@D)/reason || { cat $(@D)/reason; exit 1; }
	rm $(@D)/reason
	touch $@

# The documentation, in docs/_build/html: the notebooks run that `make test` leaves out, every warning is an error, and every link inside it has to lead somewhere.
$(VENV)/ready-docs: $(VENV)/ready
	@$(RUN) -m pip install --quiet --editable '.[fastai1,fast,test,docs]' --constraint constraints.txt \
	    > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@touch $@

docs: $(VENV)/ready-docs
	$(RUN) benchmarks/claims.py
	$(RUN) $(PYTEST) -m full tests/test_notebooks.py
	$(RUN) docs/badges.py
	$(RUN) docs/dark.py
	$(RUN) -W ignore -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(VENV)/bin/linkchecker --config docs/linkchecker.ini --no-status docs/_build/html/index.html

# Run the notebooks and keep what they show; those of fastai 2 in its own environment.
notebooks: $(VENV)/ready $(VENV)-fastai2/ready
	cd examples && $(abspath $(VENV))/bin/jupyter execute --inplace --timeout=600 $$(ls *.ipynb | grep -v ^fastai2_)
	cd examples && $(abspath $(VENV))-fastai2/bin/jupyter execute --inplace --timeout=600 fastai2_*.ipynb

$(VENV)-demo/ready $(VENV)-demo-gpu/ready: pyproject.toml constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON) here: install Python 3.8 to 3.13, or name one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 7) and "The demo needs Python 3.8 to 3.13, and $(PYTHON) is older. Name another one: make demo PYTHON=/path/to/python")'
	@"$(PYTHON)" examples/demo_setup.py "$(@D)" --folder="$$DATA" $(if $(findstring -gpu,$@),--gpu)
	@touch "$@"

# The folder's name gets to the shell as a variable: spaces, quotes and dollar signs stay as they were typed.
demo: override export DATA := $(value DATA)
demo: $(DEMO)/ready
	@set --; if [ -n "$$DATA" ]; then set -- -- "$$DATA"; fi; exec "$(DEMO)/bin/python" examples/demo.py "$$@"

lint: $(VENV)/ready
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) tests/house.py

# Lint, then the tests of fastai 1 and of fastai 2 with the pairwise sample of the matrices.
test: what-test-does lint test-fastai1 test-fastai2

what-test-does:
	@echo "make test checks the code, then runs 3,200 tests with fastai 1 and 400 with fastai 2: 22 minutes on two"
	@echo "slow cores. The first time, it makes two environments before that, $(VENV) and $(VENV)-fastai2, in five minutes."

# Hundreds of processes import memlist: the first one keeps what it compiles, even if the environment says otherwise.
test-fastai1 test-fastai2 test-full test-legacy test-latest: export PYTHONDONTWRITEBYTECODE :=

test-fastai1: $(VENV)/ready
	$(call quick,$(RUN))

test-fastai2: $(VENV)-fastai2/ready
	$(VENV)-fastai2/bin/python $(PYTEST) $(SAMPLE) tests/fastai2

# All of them.
test-full: lint $(VENV)-fastai2/ready
	$(RUN) $(PYTEST)
	$(VENV)-fastai2/bin/python $(PYTEST) tests/fastai2

# Every fault that memlist is proven against, the storm included: under fifteen minutes. Makes docs/reliability.md.
test-faults: $(VENV)/ready
	PYTHONPATH=tests $(RUN) -W ignore -m faults $(FAULTS)

# The tests on Python 3.8, torch 1.8.1 and fastai 1.0.60.
test-legacy: export OMP_NUM_THREADS := 1
test-legacy: $(VENV)-legacy/ready
	$(call quick,$(VENV)-legacy/bin/python,$(TOOLS))

# And on the newest Python that fastai 1 can be imported on.
test-latest: $(VENV)-latest/ready
	$(call quick,$(VENV)-latest/bin/python,$(TOOLS))

# A release, in dist/: the sdist, and the wheel made of it. Building prints a thousand lines, which are shown if it fails.
dist: $(VENV)/ready $(VENV)-twine/ready
	@rm -rf dist && mkdir -p build
	@$(RUN) -m build --outdir dist > build/build.log 2>&1 || { cat build/build.log; exit 1; }
	$(VENV)-twine/bin/python -m twine check --strict dist/*

# A release, and each of its doors tried from the wheel, in an environment of its own outside of the checkout.
package: dist
	$(PYTHON) tests/wheel.py dist $(OUTSIDE)

# A release, and all tests with fastai 1 as a stranger runs them: against the wheel, by the files of the sdist.
package-full: dist
	$(PYTHON) tests/wheel.py dist $(OUTSIDE) --full

# All figures, under two hours on two quiet cores; their pages and plots. The page of the comparison says how long each
# part took.
bench: $(VENV)/ready
	-$(MAKE) --keep-going $(RIVALS:%=$(VENV)-%/ready)
	$(RUN) -W ignore benchmarks/figures.py
	$(RUN) -W ignore benchmarks/beside.py
	$(RUN) benchmarks/plots.py
	$(RUN) benchmarks/claims.py

# The same with few images, which shows that everything runs: pages without meaning, in build/bench.
bench-quick: $(VENV)/ready
	-$(MAKE) --keep-going $(RIVALS:%=$(VENV)-%/ready)
	$(RUN) -W ignore benchmarks/figures.py --quick --into build/bench
	$(RUN) -W ignore benchmarks/beside.py --quick --into build/bench

# What the figures of FFCV need.
bench-ffcv: $(VENV)-ffcv/ready

# The figures of batch_tfms=True that need a GPU.
bench-gpu: $(VENV)/ready
	$(RUN) -W ignore benchmarks/gpu.py
	$(RUN) benchmarks/claims.py

# The figures of MemoryImageFolder and cached.
bench-doors: $(VENV)/ready
	-$(MAKE) --keep-going $(RIVALS:%=$(VENV)-%/ready)
	$(RUN) -W ignore benchmarks/doors.py
	$(RUN) benchmarks/plots.py
	$(RUN) benchmarks/claims.py

# The figures of fastai 2; those of a GPU, too, where there is one.
bench-fastai2: $(VENV)-fastai2/ready
	$(VENV)-fastai2/bin/python -W ignore benchmarks/fastai2.py
	$(VENV)-fastai2/bin/python benchmarks/plots.py
	$(VENV)-fastai2/bin/python benchmarks/claims.py

clean:
	rm -rf $(VENV) $(VENV)-fastai2 $(VENV)-legacy $(VENV)-latest $(RIVALS:%=$(VENV)-%) $(VENV)-twine build dist *.egg-info
	rm -rf docs/_build docs/notebooks .pytest_cache .mypy_cache .ruff_cache
