PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo test check bench bench-loaders bench-convert bench-compose gpu

help:
	@echo "make demo    the whole way, from drawn images to a trained model (4 minutes on 2 cores, after the install)"
	@echo "make test    all tests (4 minutes on 2 cores, after the install)"
	@echo "make check   format, lint and types"
	@echo "make bench   loader and conversion rates on this machine"
	@echo "make bench-loaders   the loader beside its peers (10 minutes on 2 cores, after the install); DATA=FOLDER races on yours"
	@echo "make bench-convert   conversion beside decoding alone, GNU tar and its peers (8 minutes on 2 cores, after the install)"
	@echo "make bench-compose   composing beside encoding alone, and what 400,000 samples take (5 minutes on 2 cores, 3 GB of disk)"
	@echo "make gpu     tests and benchmarks on a CUDA GPU; DRY=1 walks the same code on the CPU"

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-teacher.txt requirements-ray.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/installed
	$(BIN)/python demo.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m bench.loader

bench-compose: $(VENV)/installed
	$(BIN)/python -m bench.compose

# The peers disagree about versions, and some need a compiler: an environment of their own.
$(VENV)-bench/installed: requirements.txt bench/requirements.txt bench/race/install.py
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python bench/race/install.py
	touch $@

bench-loaders: $(VENV)-bench/installed
	$(VENV)-bench/bin/python -m bench.race $(if $(DATA),--data $(DATA))

bench-convert: $(VENV)-bench/installed
	$(VENV)-bench/bin/python -m bench.convert

# With a GPU: the virtual environment if there is one, else the machine's own Python, which may reach no package index.
gpu: $(if $(DRY),$(VENV)/installed-dev)
	$(if $(wildcard $(BIN)/python)$(DRY),$(BIN)/python,$(PYTHON)) -m bench.gpu $(if $(DRY),--dry)
