# `make` prints what there is. Every target works without root, Docker or a running server; `up` and `test` need
# Python 3.11 or newer and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

BIN := .venv/bin
PYTHON_VERSIONS := >=3.11,<3.15
ARGS ?=
# More test processes than cores only wait for each other; each has a PostgreSQL and a Redis of its own.
TEST_PROCESSES ?= 2
SEEDS ?= 1 2
SEED ?= $(shell date +%s)
MINUTES ?= 5

##@ Run

.PHONY: up
up: .venv/embedded.stamp ## Start the whole stack on this machine and run the main job once (ARGS="--no-demo --port 9000")
	@exec $(BIN)/millrace up $(ARGS)

.PHONY: demo
demo: .venv/embedded.stamp ## Start the stack, run the main job, stop; the exit code tells
	@$(BIN)/millrace demo $(ARGS)

.PHONY: status
status: .venv/embedded.stamp ## Say what a stack started with `millrace up --detach` is doing
	@$(BIN)/millrace status $(ARGS)

.PHONY: down
down: .venv/embedded.stamp ## Stop a stack started with `millrace up --detach`
	@$(BIN)/millrace down $(ARGS)

##@ Run in containers

.PHONY: compose-secrets
compose-secrets: ## Make the secrets that compose.yaml wants, where there are none yet
	@deploy/docker/make-secrets.sh

.PHONY: image
image: ## Build the image millrace:dev
	MILLRACE_REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) docker compose build --quiet migrate

.PHONY: smoke
smoke: .venv/dev.stamp image ## Run the smoke tests on containers of the image, and compose.yaml as a whole (needs Docker)
	$(BIN)/pytest -p pytest_docker_tools.plugin -p pytest_celery.plugin -m smoke tests/smoke $(ARGS)

##@ Work on it

.PHONY: test
test: .venv/dev.stamp ## Run the tests on real servers that they start themselves (ARGS="tests/unit -k retry")
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup -m "not smoke and not performance and not slow" $(ARGS)

.PHONY: faults
faults: .venv/dev.stamp ## Kill, freeze, cut and wipe everything, with a few seeds, and look whether the promises hold
	FAULT_SEEDS="$(SEEDS)" $(BIN)/pytest --numprocesses $(TEST_PROCESSES) -m faults --timeout 600 $(ARGS)

.PHONY: mutants
mutants: .venv/dev.stamp ## Take each guard away in a copy of the tree; a test of the faults must notice (ARGS="--only token")
	$(BIN)/python -m tests.faults.mutations $(ARGS)

.PHONY: soak
soak: .venv/dev.stamp ## Faults at random under load (MINUTES=30 SEED=1); repeat one by its seed
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

.PHONY: check
check: check-style check-types check-layers check-openapi check-security check-audit ## Run everything that reads the code

.PHONY: bench
bench: .venv/bench.stamp ## Measure Millrace beside its peers in some minutes, on a quiet machine (ARGS="--only submit")
	$(BIN)/python -m tests.performance.run --quick $(ARGS)

.PHONY: bench-full
bench-full: .venv/bench.stamp ## The same at length and with 1,000,000 jobs; writes docs/performance.md
	$(BIN)/python -m tests.performance.run --full $(ARGS)
	$(BIN)/python -m tests.performance.report

.PHONY: million
million: .venv/bench.stamp ## One tenant's 1,000,000 jobs, and how long another tenant's single jobs wait beside them
	$(BIN)/python -m tests.performance.million $(ARGS)

.PHONY: format
format: .venv/dev.stamp ## Put the code into the house's form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: env
env: .venv/dev.stamp ## Make .venv with everything, from the locked requirements

.PHONY: lock
lock: .venv/dev.stamp ## Lock the requirements again (ARGS=--upgrade takes the newest)
	$(LOCK) pyproject.toml --output-file requirements/runtime.txt
	$(LOCK) pyproject.toml --group build --extra embedded --constraint requirements/runtime.txt --output-file requirements/embedded.txt
	$(LOCK) pyproject.toml --group build --extra embedded --extra dev --constraint requirements/embedded.txt --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --group build --extra embedded --extra bench --constraint requirements/dev.txt --output-file requirements/bench.txt
	$(LOCK) --group build --constraint requirements/embedded.txt --output-file requirements/build.txt

.PHONY: clean
clean: ## Remove what tools left behind; .venv and the data under var/ stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

##@ One check alone

.PHONY: check-style
check-style: .venv/dev.stamp ## ruff: rules and form
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .

.PHONY: check-types
check-types: .venv/dev.stamp ## mypy --strict
	$(BIN)/mypy

.PHONY: check-layers
check-layers: .venv/dev.stamp ## import-linter: imports run downwards only
	$(BIN)/lint-imports --no-logo

.PHONY: check-openapi
check-openapi: .venv/dev.stamp ## docs/openapi.json is what the schemas generate
	$(BIN)/millrace openapi write --check

.PHONY: check-security
check-security: .venv/dev.stamp ## bandit: dangerous calls in our code
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml service worker beat deploy migrations

# OSV rather than the registry's own data, because not every mirror of a registry serves that. Only a database that
# cannot be reached is passed over, aloud; anything else that goes wrong fails.
.PHONY: check-audit
check-audit: .venv/dev.stamp ## pip-audit: known vulnerabilities in what we ship
	@if report=$$($(BIN)/pip-audit --strict --vulnerability-service osv --disable-pip --no-deps \
			--requirement requirements/embedded.txt 2>&1); then \
		echo "$$report"; \
	elif grep -qE 'requests\.exceptions\.(Connection|Proxy|SSL|ConnectTimeout|ReadTimeout)' <<<"$$report"; then \
		echo "SKIPPED pip-audit: the vulnerability database cannot be reached from here. $$(tail -n 1 <<<"$$report")"; \
	else \
		echo "$$report"; exit 1; \
	fi

# Names no index, and resolves for every Python and platform that we support at once.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links $(ARGS)

# Two sets in one environment: `up` waits only for what it needs, `dev` holds all of it.
.venv/dev.stamp: requirements/dev.txt pyproject.toml
	$(call install,dev)
	@touch .venv/embedded.stamp $@

# The peers, on top of either: they change no version of it.
.venv/bench.stamp: requirements/bench.txt pyproject.toml
	$(call install,bench)
	@touch .venv/embedded.stamp $@

.venv/embedded.stamp: requirements/embedded.txt pyproject.toml
	$(call install,embedded)
	@touch $@

# The checkout is installed by the locked setuptools: build isolation would fetch one that no hash vouches for.
define install
	@if ! $(BIN)/python -c '' 2>/dev/null; then rm -rf .venv; $(make_venv); fi
	@echo "Installing requirements/$(1).txt into .venv"
	@if command -v uv >/dev/null; then install="uv pip install --python $(BIN)/python"; \
	else install="$(BIN)/python -m pip install --disable-pip-version-check"; fi; \
	$$install --quiet --require-hashes --requirement requirements/$(1).txt && \
	PYTHONWARNINGS=ignore $$install --quiet --no-deps --no-build-isolation --editable .
endef

# uv fetches a Python where none suits. Otherwise the newest on PATH that can make environments; PYTHON=… overrides.
define make_venv
	if command -v uv >/dev/null; then uv venv --quiet --python '$(or $(PYTHON),$(PYTHON_VERSIONS))' .venv; \
	else \
		suits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; found=; bare=; \
		for python in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python); do \
			$$python -c "$$suits" 2>/dev/null || continue; \
			if $$python -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; bare=$$python; \
		done; \
		if [ -n "$$found" ]; then $$found -m venv .venv; \
		elif [ -n "$$bare" ]; then \
			echo "$$bare cannot make environments: on Debian and Ubuntu install python3-venv, or install uv." >&2; exit 1; \
		else \
			echo "No Python 3.11 to 3.14 found. Install one, or install uv, or name one: make PYTHON=/path/to/python." >&2; exit 1; \
		fi; \
	fi
endef
