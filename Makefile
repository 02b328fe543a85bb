PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help demo test check bench gpu

help:
	@echo "make demo    the whole way, from drawn images to a trained model (4 minutes on 2 cores, after the install)"
	@echo "make test    all tests (4 minutes on 2 cores, after the install)"
	@echo "make check   format, lint and types"
	@echo "make bench   loader and conversion rates on this machine"
	@echo "make gpu     tests and benchmarks on a CUDA GPU; DRY=1 walks the same code on the CPU"

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
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

# With a GPU: the virtual environment if there is one, else the machine's own Python, which may reach no package index.
gpu: $(if $(DRY),$(VENV)/installed-dev)
	$(if $(wildcard $(BIN)/python)$(DRY),$(BIN)/python,$(PYTHON)) -m bench.gpu $(if $(DRY),--dry)
