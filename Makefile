PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce-quick test test-slow test-slurm lint docs tables bench wheel clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/ready ## prepare .venv with the pinned dependencies

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lottery needs Python 3.11 or newer; make PYTHON=... names one")'
	$(PYTHON) -m venv .venv
	@echo 'installing PyTorch and what else is pinned, about 6 GB: some minutes'
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## run the main job on 8x8 digits: tickets against random reinitialisation, one to two minutes
	$(BIN)/lottery run experiment=demo

# two workers, a file each: tests use one thread, and those of a file share what it has trained
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --durations=25

test: setup lint ## check style, types and structure, run every test that is not slow
	$(PYTEST)

test-slow: setup ## run the slow tests: processes killed at many moments, the wheel in a clean environment, the docs
	$(PYTEST) -m slow

test-slurm: setup ## run the tests on a real Slurm of two nodes, started for them (Debian: slurm-wlm)
	$(BIN)/pytest -m slurm --durations=25

lint: setup ## style, types, and the walls between modules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup ## build the documentation into site/
	$(BIN)/mkdocs build --strict

tables: setup ## make tables, figures and pages of experiments/ again, from the committed results and claims
	$(BIN)/python -m experiments.tables

reproduce-quick: setup ## the papers' studies in small, on digits, with their verdicts: twelve minutes
	$(BIN)/python -m experiments.quick

bench: setup ## measure speed against a bare PyTorch loop, as ratios
	$(BIN)/python -m experiments.speed.bench

wheel: setup ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove the environment and what tools left
	rm -rf .venv dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
