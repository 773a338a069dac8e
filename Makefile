# Everything sets itself up: a fresh machine needs Python 3.8 or newer (with venv) and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
# The user's own folder for the demo: make demo DATA=~/pictures
DATA   ?=

.PHONY: demo test test-full lint bench clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]' --constraint constraints.txt
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

bench: $(VENV)/ready
	$(RUN) -W ignore benchmarks/figures.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
