# Everything a fresh machine needs: Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help up test bench faults lint format lock clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(VENV)/.up ## Run everything: a private PostgreSQL, the API, the workers
	@exec $(BIN)/treadle up

test: $(VENV)/.dev ## Run the whole test suite on a real PostgreSQL
	@$(BIN)/python -m pytest -n auto $(ARGS)

bench: $(VENV)/.bench ## Measure it, and its peers beside it: ten to fifteen minutes; ARGS=--quick for one
	@$(BIN)/python -m bench $(ARGS)

MINUTES ?= 2
faults: $(VENV)/.dev ## Break everything under load, and prove that nothing is lost; MINUTES=30, ARGS=--list
	@$(BIN)/python -m faults --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The locks name versions and hashes, never an index's address.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header pyproject.toml --group build --extra embedded

lock: $(VENV)/.dev ## Renew requirements.lock, requirements-dev.lock and requirements-bench.lock
	@$(PIP) install uv
	@$(COMPILE) --upgrade --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --extra langgraph --extra autogen --group lint --group test \
		--output-file requirements-dev.lock
	@$(COMPILE) --constraint requirements-dev.lock --group bench --output-file requirements-bench.lock

clean: ## Remove the virtual environment and caches (not the data in .treadle)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Treadle needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.up: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing what requirements.lock pins"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.up
	@echo "installing what requirements-dev.lock pins"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.bench: requirements-bench.lock $(VENV)/.up
	@echo "installing what requirements-bench.lock pins"
	@$(PIP) install --require-hashes -r requirements-bench.lock
	@touch $@
