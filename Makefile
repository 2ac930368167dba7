# make quickstart   set up and run the main job: a small sweep, from pre-training to the frontier
# make real         set up and run the same on a real language model of 135 M parameters: a quarter of an hour
# make test         set up and run lint, types and all tests but the studies
# make check        the fast part of it, for everyday work
# make bench        how fast it is against what a user would write: ratios, half an hour (tests/benchmarks/README.md)
# make study        what takes minutes: phenomena with costly base models, a cluster that loses a node
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
export OMP_NUM_THREADS ?= 1
# Packages are compiled when first imported (--no-compile halves the installation), so that must be kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart real test check study bench lint clean

quickstart: $(VENV)/.installed
	@$(BIN)/selgen sweep run quickstart

real: $(VENV)/.installed
	@$(BIN)/selgen sweep run real_model
	@$(BIN)/selgen heatmap real_model --scores "sycophancy_(.*)" --figure runs/real_model/topics.png

test: lint
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow and not study"

study: $(VENV)/.installed-dev
	$(PYTEST) -m study

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(call install,.)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	@$(call install,".[dev]")
	@touch $(VENV)/.installed $@

define install
echo "installing into $(VENV) (about two minutes the first time)"
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(INSTALL) --editable $(1)
endef

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
