# make run: the quickstart, offline.  make test: the tests.  VENV=... shares one environment between clones.
# WORKERS=... runs the tests in more or fewer processes.
# make records: what was measured.  make records NAME=...: one of it again, compared.  make bench: int8 on
# this processor.  Images for both: CIFAR10_JPEG=FOLDER.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
WORKERS ?= 2
NAME ?=
CIFAR10_JPEG ?=

.PHONY: install run test test-slow lint records bench
install: $(VENV)/.installed
run: install
	$(BIN)/python main.py --config configs/quickstart.py
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --max-worker-restart 0
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow
records: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.records run $(NAME)
lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/tach check
bench: $(VENV)/.installed-dev
	PATH="$(abspath $(BIN)):$$PATH" CIFAR10_JPEG="$(CIFAR10_JPEG)" sh records/int8_cpus/run.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -r requirements.txt
	touch $@
$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@
