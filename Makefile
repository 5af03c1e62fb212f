# `make quickstart` and `make test` need python3 with venv, and nothing else.
PYTHON ?= python3
CSV ?=
BIN := .venv/bin

.PHONY: help install quickstart test test-slow lint format clean

help:
	@echo "make quickstart                  the main job on drawn faces, minutes"
	@echo "make quickstart CSV=fer2013.csv  the same on FER2013"
	@echo "make install                     .venv with all that is needed"
	@echo "make test                        the tests"
	@echo "make test-slow                   the proofs that take minutes"
	@echo "make lint / make format          ruff and mypy"

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed; name one with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

quickstart: .venv/installed
	$(BIN)/python -m tools.quickstart $(if $(CSV),--csv='$(CSV)')

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fer_tfdata tools

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info
