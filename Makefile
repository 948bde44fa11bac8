# Every target sets up .venv itself when it is missing or older than setup.cfg.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo results test test-slow lint bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,report]"
	@touch $@

demo: $(STAMP)  ## four chains of ten generations on digits: the table and the figure of the README
	$(BIN)/python scripts/demo.py

results: $(STAMP)  ## ten generations of every model on real data, with seeds: docs/results.md and its figures
	$(BIN)/python scripts/results.py --workers $(WORKERS)

test: $(STAMP)  ## the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP)  ## the tests marked slow
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## alternating A/B benchmarks; medians and ratios
	$(BIN)/python -m benchmarks

clean:  ## remove the environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
