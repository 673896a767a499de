# Everything that people and CI type. `make` alone lists it. Needs make, git, gcc, Go and Python; `setup` says what is missing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python

# The environment depends on these; a change of content, not of time stamp, makes a new one.
INPUTS := requirements.lock pyproject.toml
NATIVE := tools/build_native.py $(wildcard kube_cache/*/*.[ch])
STAMP := $(VENV)/.content

.PHONY: help setup servers format check test test-large demo stack bench bench-release bench-engine bench-store lock

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## make .venv from requirements.lock; instant when nothing changed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: Python 3.11 or newer is needed as $(PYTHON) (make setup PYTHON=/path/to/python3)"; exit 1; }
	@content=$$(cat $(INPUTS) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(STAMP) 2>/dev/null)" != "$$content" ]; then \
	  set -e; \
	  echo "setup: $(VENV) from requirements.lock"; \
	  $(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make an environment: install its venv module (Debian: python3-venv)"; exit 1; }; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	  echo "$$content" > $(STAMP); \
	  cat $(NATIVE) | sha256sum | cut -d' ' -f1 > $(STAMP)-native; \
	fi
	@content=$$(cat $(NATIVE) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(STAMP)-native 2>/dev/null)" != "$$content" ]; then \
	  $(RUN) tools/build_native.py && echo "$$content" > $(STAMP)-native; \
	fi

servers: setup ## build the pinned real servers that are missing
	@$(RUN) -m tools.servers --quiet

format: setup ## lay out the code and mend the lint findings that a tool can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: setup ## format, lint, types, import direction, structure and the fast tests
	$(BIN)/ruff format --check . || { echo 'error: `make format` mends this'; exit 1; }
	$(BIN)/ruff check . || { echo 'error: `make format` mends the findings marked [*], people mend the rest'; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) -m tools.structure
	$(BIN)/pytest -q -m "not stack and not slow" tests

test: setup servers ## every test, against the real servers
	$(BIN)/pytest tests

test-large: setup ## an object of 60 GiB through the engine: memory, journal, heartbeats (make test has 2 GiB)
	KUBE_CACHE_TEST_OBJECT_GIB=60 $(BIN)/pytest -q tests/engine/test_long_object.py

demo: setup servers ## the main path, live, checking its own promises (KEEP=1, DEMO_MIB, DEMO_NODES, DEMO_PODS)
	@$(RUN) -m tools.demo

stack: setup servers ## servers, operator and agents until Ctrl-C; .stack/env tells where
	@$(RUN) -m tools.stack --end-with-parent $(STACK_ARGS)

bench: bench-engine bench-store bench-release ## all benches; tables here, figures in build/bench

bench-release: setup servers ## Pod creation to bound on a cache hit
	@$(RUN) -m tests.bench.release

bench-engine: setup servers ## the transfer engine against a loopback S3
	@$(RUN) -m tests.bench.engine

bench-store: setup ## the node's store
	@$(RUN) -m tests.bench.store

lock: setup ## resolve the dependencies again into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --universal --python-version 3.11 -o requirements.lock
