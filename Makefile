# A fresh machine needs only Python >= 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Without npm the peers in Node are skipped.
NODE_PEERS := $(if $(shell command -v npm),bench/peers/node/node_modules/.package-lock.json)
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help up test test-postgres15 tools bench bench-compare faults strangers lint format lock proto clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

up: $(VENV)/.up ## Run a private PostgreSQL, the API and the workers; ARGS=--reload
	@exec $(BIN)/treadle up$(if $(ARGS), $(ARGS))

test: $(VENV)/.dev ## Run the whole test suite on a real PostgreSQL
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

tools: .tools/.python .tools/.node ## Install what generates requests and clients in tests; needs npm

POSTGRES15 ?= /usr/lib/postgresql/15/bin
test-postgres15: $(VENV)/.dev ## Run the SQL tests on PostgreSQL 15 with a DST time zone, JIT and German dates
	@TREADLE_TEST_POSTGRES=$(POSTGRES15) $(BIN)/python -m pytest -n auto --dist worksteal tests/sql $(ARGS)

bench: $(VENV)/.bench $(NODE_PEERS) ## Measure Treadle and its peers in about twenty minutes; ARGS=--quick takes less than two
	@$(BIN)/python -m bench $(ARGS)

bench-compare: $(VENV)/.bench ## Compare the last two runs of the benchmark on this machine, figure by figure
	@$(BIN)/python -m bench.history

MINUTES ?= 2
faults: $(VENV)/.dev ## Break every part under load and check that nothing is lost; MINUTES=30, ARGS=--list
	@$(BIN)/python -m faults --minutes $(MINUTES) $(ARGS)

CALLS ?= 20000
strangers: $(VENV)/.dev ## Let callers of two tenants try each other's ids, cursors and keys; CALLS=1000
	@CALLS=$(CALLS) $(BIN)/python -m pytest -q -s -o faulthandler_timeout=7200 tests/access/test_machine.py $(ARGS)

lint: $(VENV)/.dev ## Run ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## Format the code and apply the fixes of ruff
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The locks name versions and hashes, and never the address of a package index.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header pyproject.toml --group build --extra embedded

lock: $(VENV)/.dev ## Update the files requirements*.lock
	@$(PIP) install uv
	@$(COMPILE) --upgrade --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --extra langgraph --extra autogen --extra otel --extra protobuf \
		--extra a2a --extra openai --extra openai-agents --extra pydantic-ai \
		--group lint --group test --output-file requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --upgrade --group tools --group proto --output-file requirements-tools.lock
	@$(COMPILE) --constraint requirements-dev.lock --group bench --output-file requirements-bench.lock

proto: .tools/.python ## Generate treadle/v1 from proto/
	@.tools/python/bin/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. proto/treadle/v1/*.proto

clean: ## Remove the virtual environment and caches (not the data in .treadle)
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

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

bench/peers/node/node_modules/.package-lock.json: bench/peers/node/package-lock.json bench/peers/node/package.json
	@echo "installing what bench/peers/node/package-lock.json pins"
	@cd bench/peers/node && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/.package-lock.json

$(VENV)/.bench: requirements-bench.lock $(VENV)/.up
	@echo "installing what requirements-bench.lock pins"
	@$(PIP) install --require-hashes -r requirements-bench.lock
	@touch $@

# The programs of tests have environments of their own, so that their dependencies do not bind ours.
.tools/.python: requirements-tools.lock
	@echo "installing what requirements-tools.lock pins"
	@$(PYTHON) -m venv .tools/python
	@.tools/python/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-tools.lock
	@touch $@

.tools/.node: tests/support/node/package-lock.json tests/support/node/package.json
	@echo "installing what tests/support/node/package-lock.json pins"
	@mkdir -p .tools/node
	@cp tests/support/node/package.json tests/support/node/package-lock.json .tools/node
	@cd .tools/node && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@
