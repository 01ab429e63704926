# Everything that is done with this folder. Needs make and Python 3.11 or later; the rest is
# installed into .venv, from the locks, on first use.

SHELL := /bin/sh
PYTHON ?=
WORKERS ?= 3
SOURCES ?=
ARGS ?=
export PYTHON

BIN := .venv/bin
PLACES := $(wildcard src tests benchmarks demo)

.DEFAULT_GOAL := help
.PHONY: help up test test-faults lint format bench demo venv lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "ARGS=\"…\" is handed to the command; PYTHON=… picks the interpreter; WORKERS=… the test processes;"
	@echo "SOURCES=1 installs what key sources other than a file need."

up: ## install what is needed and start: dashboard, API and MCP on port 3101
	@scripts/install requirements$(if $(SOURCES),-sources).lock
	@exec $(BIN)/company-agents up $(ARGS)

# Where Chromium cannot be had, its tests say that they were left out; CI does not let that pass.
test: venv ## run all tests
	@found=$$(scripts/test-packages) || [ -z "$$CI" ] || exit 1; eval "$$found"; \
		exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# Every kind of key source, and each moment: an hour and more.
test-faults: venv ## kill every command that changes keys before and after each of its effects
	@exec timeout 4h $(BIN)/python -m pytest -n $(WORKERS) --dist load -m faults tests/faults tests/model tests/backup $(ARGS)

lint: venv ## check style and types
	@$(BIN)/python -m ruff check $(PLACES)
	@$(BIN)/python -m ruff format --check $(PLACES)
	@$(BIN)/python -m mypy $(PLACES)

format: venv ## put imports and layout in order
	@$(BIN)/python -m ruff check --fix-only --quiet $(PLACES)
	@$(BIN)/python -m ruff format $(PLACES)

bench: venv ## measure
	@exec $(BIN)/python -m benchmarks $(ARGS)

demo: venv ## a company, an agent and a provider on this machine, and where its token is not
	@exec $(BIN)/python demo/run.py $(ARGS)

venv: ## only install, with what tests need
	@scripts/install requirements-dev.lock

lock: ## make the locks anew, with the newest versions
	@scripts/lock $(ARGS)

clean: ## remove what was installed and built; the data of instances is elsewhere and stays
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
