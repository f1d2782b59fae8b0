# The one door. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo test check bench faults lock clean

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1 \t\2/' | expand -t 16

setup: .venv/ready ## the virtual environment with the locked dependencies

.venv/ready: locks/dev.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "carillon: install Python 3.11 or newer (with pip and venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "carillon: $(PYTHON) is too old; install Python 3.11 or newer, or say make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "carillon: install Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "carillon: setting up .venv from locks/dev.lock (once)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.lock >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
	@touch $@

demo: setup ## the main job: sample events in, messages out, pages to look at   [ARGS="--events 2000 --exit --json"]
	@$(BIN)/carillon demo $(ARGS)

test: setup ## all tests that need no special hardware   [ARGS="-k name"]
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: setup ## linters, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## benchmarks on the embedded Kafka   [ARGS="--only engine --json"]
	@$(BIN)/python -m benchmarks $(ARGS)

faults: setup ## the long fault loops   [ARGS="--kills 30 --seed 1 --json"]
	@$(BIN)/python -m tests.faults $(ARGS)

lock: setup ## write the lock files anew (needs uv)
	@UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile -q --universal --python-version 3.11 --generate-hashes pyproject.toml -o locks/run.lock
	@UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra dev pyproject.toml -o locks/dev.lock

clean: ## remove what we made
	@rm -rf .venv .carillon dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
