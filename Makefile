# Two commands for newcomers: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3.11)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
REPO   := feature_repo
USERS  ?= 42 196 405

.DEFAULT_GOAL := help
.PHONY: help venv demo serve test bench lint format stubs check-stubs check-proto redis clean

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Create the virtual environment and install everything into it

# torch comes first and by its exact version, so that pip takes the build that is at hand and no other.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 to 3.13 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) (a few minutes the first time) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { \
	  rm -rf $(VENV); echo "$(PYTHON) can't make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -E '^torch==' constraints.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Data, training, export, materialization, server, recommendations: all of it, on MovieLens 100K
	@$(BIN)/python $(REPO)/demo.py $(USERS)

serve: $(STAMP) ## Keep the demo's server up
	@test -e $(REPO)/data/bundles/CURRENT || { echo "Nothing to serve yet: run 'make demo' first."; exit 1; }
	@$(BIN)/feast-recsys -c $(REPO) serve

test: $(STAMP) redis ## Run all tests, on SQLite and on a real Redis
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: $(STAMP) redis ## Measure server, peers and floors in five minutes; BENCH=thorough, BENCH=full for more
	@$(BIN)/python -m benchmarks $(if $(filter thorough full,$(BENCH)),--$(BENCH))

lint: $(STAMP) ## Lint, format check, types, room rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

stubs: ## Generate the stubs of protos/ with the oldest tools we support
	@sh protos/generate.sh protos

check-stubs: ## Compare the committed stubs with freshly generated ones
	@sh protos/generate.sh --check

check-proto: ## Lint the wire contract (needs npm)
	@sh protos/lint.sh

# Tests talk to a real Redis, never to a stand-in.
redis:
	@command -v redis-server >/dev/null || { \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "Installing redis-server ..."; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null; \
	  elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then \
	    echo "Installing redis-server ..."; sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq redis-server >/dev/null; \
	  elif command -v apt-get >/dev/null; then \
	    echo "The tests need a redis-server: sudo apt-get install redis-server"; exit 1; \
	  else \
	    echo "The tests need a redis-server on the PATH: brew install redis"; exit 1; \
	  fi; }

clean: ## Remove what the demo made; the environment stays
	@rm -rf $(REPO)/data
