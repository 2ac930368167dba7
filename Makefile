# make quickstart   set up and run the main job: a small sweep, from pre-training to the frontier
# make test         set up and run lint, types and the whole suite
# make check        the fast part of it, for everyday work
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
export OMP_NUM_THREADS ?= 1
# Packages are compiled when first imported (--no-compile halves the installation), so that must be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check lint clean

quickstart: $(VENV)/.installed
	@$(BIN)/selgen sweep run quickstart

test: lint
	$(BIN)/pytest -n 2 --dist loadfile

check: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about two minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
