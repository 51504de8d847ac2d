# sparserl_jax: `make bench` for the table, `make test` for the tests. `make help` lists the rest.
# The first call makes .venv; it counts as made only when the stamp of this configuration is in it.

PYTHON ?= python3
ACCEL  ?= auto
SUITE  ?=
PAPER  ?= rlx2
EXTRA  ?=
ARGS   ?=
VENV   ?= .venv
JOBS   ?= 2

BIN := $(VENV)/bin
# A process of tests holds up to 4 GB of compiled programs; files stay whole, for their tests share what they compile.
PYTEST = $(BIN)/python -m pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile,)
# ACCEL=cpu on a machine with a GPU is a choice, and JAX must hear of it; otherwise the environment stays as it is.
JAX := $(if $(filter cpu,$(ACCEL)),JAX_PLATFORMS=cpu,)
# Tests are of CPUs unless JAX_PLATFORMS says otherwise: several processes at once, and bits that only they promise.
TESTS_JAX := JAX_PLATFORMS=$(or $(JAX_PLATFORMS),cpu)
MAKE_ENVIRONMENT = @sh .ci/environment "$(PYTHON)" "$(ACCEL)" "$(VENV)"

# Images often set it; then every command would compile the source of its libraries anew, for 10 seconds and more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install install-dev bench paper datasets test test-quick test-long test-properties test-faults lint format perf check pages clean

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]*:[^#]*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  SUITE=name or my_suite.toml   PAPER=rlx2|l0   ACCEL=auto|cpu|cuda12|cuda13|tpu   EXTRA=gymnasium   PYTHON=python3.12   VENV=.venv   JOBS=2   ARGS="..."'

install: ## make .venv for the accelerator of this machine; EXTRA=gymnasium adds MuJoCo, EXTRA=playground, offline
	$(MAKE_ENVIRONMENT) "$(EXTRA)"

install-dev: ## the same, with test and lint tools
	$(MAKE_ENVIRONMENT) "dev $(EXTRA)"

bench: install ## run a suite (quick on a CPU, standard on an accelerator) and print its table
	@suite='$(SUITE)'; \
	if [ -z "$$suite" ]; then case "$$(cat $(VENV)/.accel)" in cpu) suite=quick ;; *) suite=standard ;; esac; fi; \
	$(JAX) $(BIN)/sparserl bench "$$suite" $(ARGS)

paper: install ## run a paper's suites (or go on) and set its tables beside ours
	@$(JAX) $(BIN)/sparserl paper "$(PAPER)" $(ARGS)

datasets: EXTRA = gymnasium
datasets: install ## train TD3 on Hopper, make datasets of it in runs/hopper (half an hour)
	@$(JAX) $(BIN)/sparserl datasets --env gymnasium:Hopper-v5 --steps 500000 --hidden 128 128 --batch-size 128 \
	  --reference 3000 --transitions 25000 --out runs/hopper $(ARGS)

test: install-dev ## all tests but the long ones; what they compile is kept for the next time (~/.cache/sparserl_jax)
	@$(TESTS_JAX) $(PYTEST) -m "not long" $(ARGS)

test-quick: install-dev ## the tests that are not marked slow either
	@$(TESTS_JAX) $(PYTEST) -m "not slow and not long" $(ARGS)

test-long: install-dev ## the long ones: every method, suite and probe, thousands of simulated tables (half an hour to two)
	@$(TESTS_JAX) $(PYTEST) -m long $(ARGS)

test-properties: install-dev ## the property tests with 1,000 new examples each
	@$(TESTS_JAX) $(PYTEST) -m hypothesis --hypothesis-profile=long $(ARGS)

test-faults: install-dev ## kill a small suite a hundred times (20 to 30 minutes), print and store the table
	@JAX_PLATFORMS=cpu $(BIN)/python -m tests.faults $(ARGS)

lint: install-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install-dev ## let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

perf: install ## measure speed and memory, print and store the table
	@$(JAX) $(BIN)/python -m benchmarks.perf $(ARGS)

check: install ## check the published records in results/
	@$(JAX) $(BIN)/sparserl check results $(ARGS)

pages: install-dev ## write the tables of README and docs anew from results/
	@$(BIN)/python -m benchmarks.pages

clean: ## remove .venv, caches and build products; never runs/ or results/
	@if [ -f "$(VENV)/.accel" ] || [ -f "$(VENV)/.unfinished" ]; then rm -rf "$(VENV)" "$(VENV).lock"; fi
	@rm -rf build dist sparserl_jax.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find sparserl_jax benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +
