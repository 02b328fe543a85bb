PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One more than there are cores, for some tests wait; more than 4 would wait for the longest file.
WORKERS = $(shell $(PYTHON) -c "import os; print(min(4, 1 + os.cpu_count()))")

.PHONY: help demo test check faults bench-loaders bench-making gpu

help:
	@echo "make demo    the whole way, from drawn images to a trained model (4 minutes on 2 cores, after the install)"
	@echo "make test    all tests (7 minutes on 2 cores, after the install)"
	@echo "make check   format, lint and types"
	@echo "make faults  attacks on everything: kills, full disks, broken files and images, fuzzing (30 minutes); LONG=1 for hours"
	@echo "make bench-loaders   the loader beside its peers (10 minutes on 2 cores, after the install); DATA=FOLDER races on yours"
	@echo "make bench-making   converting beside decoding alone and GNU tar, composing beside encoding alone (10 minutes, 4 GB)"
	@echo "make gpu     tests and benchmarks on a CUDA GPU (5 minutes), STAGE=second more of them; DRY=1 walks both on the CPU"

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-teacher.txt requirements-ray.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/installed
	$(BIN)/python -m demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

faults: $(VENV)/installed-dev
	$(BIN)/python -m bench.faults $(if $(LONG),--long)

bench-making: $(VENV)/installed
	$(BIN)/python -m bench.making

# The peers disagree about versions: an environment of their own. The race names those that do not install.
$(VENV)-bench/installed: requirements.txt bench/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	-grep == bench/requirements.txt | xargs -n 1 $(VENV)-bench/bin/python -m pip install --quiet --no-deps
	touch $@

bench-loaders: $(VENV)-bench/installed
	$(VENV)-bench/bin/python -m bench.race.run $(if $(DATA),--data $(DATA))

# With a GPU: the virtual environment if there is one, else the machine's own Python, which may reach no package index.
gpu: $(if $(DRY),$(VENV)/installed-dev)
	$(if $(wildcard $(BIN)/python)$(DRY),$(BIN)/python,$(PYTHON)) -m bench.gpu $(STAGE) $(if $(DRY),--dry)
