# make run: the quickstart, offline.  make test: the tests.  VENV=... shares one environment between clones.
# WORKERS=... runs the tests in more or fewer processes.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install run test test-slow lint
install: $(VENV)/.installed
run: install
	$(BIN)/python main.py --config configs/quickstart.py
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --max-worker-restart 0
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow
lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/tach check

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -r requirements.txt
	touch $@
$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@
