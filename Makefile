# Everything that people and CI type. `make` alone lists it. Needs make, git, gcc, Go and Python; `setup` says what is missing.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python

# The environment depends on these; a change of content, not of time stamp, makes a new one.
INPUTS := requirements.lock pyproject.toml
NATIVE := tools/build_native.py $(wildcard kube_cache/*/*.[ch])
STAMP := $(VENV)/.content
NODE_SERVERS := kubelet containerd containerd-shim-runc-v2 ctr
LOCK_PART := --constraint requirements.lock --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --universal --python-version 3.11

.PHONY: help setup servers format check test test-again test-node test-large test-long soak docs demo stack bench bench-release bench-engine bench-store bench-reconcile bench-predict bench-observing bench-fleet simulate-fleet scale image wheels chart rbac lock

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

# uv installs in seconds what pip takes minutes for; pip, because a mirror may be set for pip alone.
setup: ## make .venv from requirements.lock; instant when nothing changed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: Python 3.11 or newer is needed as $(PYTHON) (make setup PYTHON=/path/to/python3)"; exit 1; }
	@content=$$(cat $(INPUTS) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(STAMP) 2>/dev/null)" != "$$content" ]; then \
	  set -e; \
	  echo "setup: $(VENV) from requirements.lock"; \
	  $(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make an environment: install its venv module (Debian: python3-venv)"; exit 1; }; \
	  sed -n '/^uv==/,/^[^ ]/p' requirements.lock | sed '$$d' > $(VENV)/uv.lock; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock; \
	  VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock \
	    || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	  echo "$$content" > $(STAMP); \
	  cat $(NATIVE) | sha256sum | cut -d' ' -f1 > $(STAMP)-native; \
	fi
	@content=$$(cat $(NATIVE) | sha256sum | cut -d' ' -f1); \
	if [ "$$(cat $(STAMP)-native 2>/dev/null)" != "$$content" ]; then \
	  $(RUN) tools/build_native.py && echo "$$content" > $(STAMP)-native; \
	fi

servers: setup ## build the pinned real servers that are missing (SERVERS: names of others, `make servers SERVERS=kubelet`)
	@$(RUN) -m tools.servers --quiet $(SERVERS)

format: setup ## lay out the code and mend the lint findings that a tool can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: setup ## format, lint, types, import direction, structure and the fast tests
	$(BIN)/ruff format --check . || { echo 'error: `make format` mends this'; exit 1; }
	$(BIN)/ruff check . || { echo 'error: `make format` mends the findings marked [*], people mend the rest'; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) -m tools.structure
	$(BIN)/pytest -q -n $(WORKERS) -m "not stack and not slow" tests

test: setup servers ## every test, against the real servers, in two processes (WORKERS=0: in one; SELECT='-k words': some of them)
	$(BIN)/pytest -n $(WORKERS) --durations=30 $(SELECT) tests

test-again: setup ## the few tests that failed in the make test before, in one process; CI does this before it says no
	@$(RUN) -m tests.again

test-node: setup servers ## operator and agent as Pods on a real kubelet and containerd, as root (part of make test where kubelet and containerd are built)
	@$(RUN) -m tools.servers --quiet $(NODE_SERVERS)
	$(BIN)/pytest -q -s tests/node

test-large: setup ## an object of 60 GiB through the engine: memory, journal, heartbeats (make test has 2 GiB)
	KUBE_CACHE_TEST_OBJECT_GIB=60 $(BIN)/pytest -q tests/engine/test_long_object.py

test-long: setup servers ## thirty days of each wait, 50 workflows interfered with, 20 kills of one operator and of two, 3,000 Pods alone and as many among peers before the scheduler, the store's fuzz and power cuts at length (make test has short forms)
	KUBE_CACHE_TEST_DAYS=30 $(BIN)/pytest -q -s --timeout 3600 tests/workflows/test_thirty_days.py
	KUBE_CACHE_TEST_WORKFLOWS=50 KUBE_CACHE_TEST_ENDINGS=50 KUBE_CACHE_TEST_KILLS=20 KUBE_CACHE_TEST_RUNS=20 \
	  $(BIN)/pytest -q -s --timeout 1800 \
	  tests/e2e/test_interfered.py tests/e2e/test_found.py tests/e2e/test_killed.py tests/e2e/test_two_operators.py
	KUBE_CACHE_TEST_CASES=3000 $(BIN)/pytest -q -s --timeout 3600 tests/kube/test_seat_oracle.py tests/kube/placement/test_oracle.py
	KUBE_CACHE_CRASH_POINTS=200 KUBE_CACHE_FUZZ_OPERATIONS=10000 KUBE_CACHE_TENANT_SECONDS=12 \
	  $(BIN)/pytest -q -s --timeout 1800 tests/store/test_crash.py tests/store/test_fuzz.py tests/store/test_tenant.py
	KUBE_CACHE_TEST_STEPS="tools base dependencies app" $(BIN)/pytest -q -s tests/image/test_rootfs.py -k again

soak: setup servers ## random kills and pauses of everything for SOAK_MINUTES (30); SOAK_SEED repeats one; figures in build/bench/soak.json (make test has three minutes)
	@$(RUN) -m tests.soak

docs: setup ## the documentation's site into build/site, with every link checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build && echo "docs: build/site ($(PYTHON) -m http.server --directory build/site)"

demo: setup servers ## the main path, live, checking its own promises (KEEP=1, DEMO_MIB, DEMO_NODES, DEMO_PODS)
	@$(RUN) -m tools.demo

stack: setup servers ## servers, operator and agents until Ctrl-C; .stack/env tells where
	@$(RUN) -m tools.stack --end-with-parent $(STACK_ARGS)

bench: bench-engine bench-store bench-release ## all benches; tables here, figures in build/bench

bench-release: setup servers ## Pod creation to bound on a cache hit
	@$(RUN) -m tests.bench.release

bench-engine: setup servers ## the transfer engine against a loopback S3
	@$(RUN) -m tests.bench.engine

bench-observing: setup servers ## traces and scrapes, on and off: downloads and hits
	@$(RUN) -m tests.bench.observing

bench-fleet: setup ## one dataset on 2 to 32 nodes at once, in network namespaces: everyone from the origin, libtorrent; as root (FLEET_RUNS, FLEET_NODES, FLEET_ROWS, FLEET_WORK; half an hour and more)
	@$(RUN) -m tests.bench.fleet

bench-reconcile: setup servers ## a reconcile of 100, 1,000 and 5,000 nodes
	@$(RUN) -m tests.bench.reconcile

bench-predict: setup ## backtests of the forecast against simple policies; SERIES=file.csv LEAD=1800 replays a file of timestamp,value as well (PER_COPY=1: its values for each copy; ZONE=UTC)
	@$(RUN) -m tests.bench.predict $(if $(SERIES),--series $(SERIES)) $(if $(LEAD),--lead $(LEAD)) $(if $(PER_COPY),--per-copy $(PER_COPY)) $(if $(ZONE),--zone $(ZONE))

scale: setup servers ## 5,000 nodes, 20,000 Pods, bursts of 2,000 hits, 10,000 Pods that wait for GPUs (SCALE_NODES, SCALE_PODS, SCALE_GATED, SCALE_WAITING …; some 30 min)
	@$(RUN) -m tests.bench.scale

simulate-fleet: setup ## swarms of agents in simulated time, with the code that chooses chunk and neighbour (SIM_NODES="32 1000 5000 15000"; SIM_ARGS=--help)
	@$(RUN) -m tools.swarm_simulator $(SIM_ARGS) $(SIM_NODES)

bench-store: setup ## the node's store
	@$(RUN) -m tests.bench.store

chart: setup ## render deploy/deploy.yaml and the chart's README from deploy/chart/kube-cache
	@$(RUN) -m tools.chart

rbac: setup servers ## take each right of the operator away in turn, on a real API server, and see its test fail
	@$(RUN) -m tools.rbac

image: setup ## build/image/kube-cache.tar, the image for operator and agent, without Docker; as root (IMAGE_ARGS=--fresh: with Debian's packages of today)
	@$(RUN) -m tools.image $(IMAGE_ARGS)

wheels: setup ## dist/*.whl for people's machines: with natives for Linux, and the command line alone for any other
	@$(RUN) -m tools.wheels

lock: setup ## resolve the dependencies again into requirements.lock, and the product's and its build's share of it into deploy/image
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --universal --python-version 3.11 -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK_PART) -o deploy/image/product.lock
	echo hatchling | $(BIN)/uv pip compile - $(LOCK_PART) -o deploy/image/build.lock
