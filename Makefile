# Two commands matter: `make demo` and `make test`. Both set up what is missing first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := $(or $(X2L_OUTPUTS),outputs)/sweeps/demo
# One thread per process: the small model gains nothing from more, and other work shares the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: demo paper test test-cluster check docs notebooks clean help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Chunks found and re-loaded; all chunks alike at four ratios of the two best methods for that; full KVs.
ALIKE := experiment=demo compressor=density_peaks,lag_kv 'selector=[all,none]' '~selector.keys_calibrated'
demo: $(VENV)/.installed ## needle videos -> sweep of the small model -> table and curve (resumes)
	$(BIN)/x2l -m experiment=demo
	$(BIN)/x2l -m $(ALIKE) levels.low.ratio=4 levels.high.ratio=16
	$(BIN)/x2l -m $(ALIKE) levels.low.ratio=8 levels.high.ratio=32
	$(BIN)/x2l -m experiment=demo levels.low.ratio=1 levels.high.ratio=1 selector=none '~selector.keys_calibrated'
	$(BIN)/x2l-collect $(DEMO)
	$(BIN)/python -m experiments.paper.make paper_claim --records $(DEMO)

paper: $(VENV)/.installed ## the paper's experiments, small -> figures, tables, outputs/paper/README.md (resumes)
	$(BIN)/python -m experiments.paper.make

test: $(VENV)/.installed ## every test, on two cores
	$(BIN)/python -m pytest -n 2

$(VENV)/.installed-cluster: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,joblib,slurm,ray]'
	@touch $@

test-cluster: $(VENV)/.installed-cluster ## a sweep through every engine, minutes; SLURM where sinfo answers
	$(BIN)/python -m pytest -m cluster tests/cluster

docs: $(VENV)/.installed ## the site, its links checked -> outputs/site; pages of notebooks that have changed
	$(BIN)/python -m experiments.docs.notebooks
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.installed-jupyter: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,jupyter]'
	@touch $@

notebooks: $(VENV)/.installed-jupyter ## opens the notebooks in Jupyter
	$(BIN)/jupyter lab --notebook-dir=. notebooks/tour.ipynb

check: $(VENV)/.installed ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## caches and the virtual environment; never outputs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find x2l tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
