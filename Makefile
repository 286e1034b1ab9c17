# All that a contributor needs: `make test` sets up .venv where needed, then runs every check.
# `make search ARGS="--max-latency-ms 2"` gives the search options of its own.
# It takes the newest fitting Python it finds; `make test PYTHON=python3.12` takes that one.
PYTHON ?=
export PYTHON

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup search test lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' Makefile

setup: ## build .venv from pyproject.toml and constraints.txt; nothing if it is up to date
	@sh scripts/setup_venv.sh

search: setup ## set up, then search pplcnet_tail on synthetic images: minutes on two cores; see runs/
	$(BIN)/python -m search.run $(ARGS)

test: lint ## set up, lint, then run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

lint: setup ## ruff (rules and format) and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv, caches and built files
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
