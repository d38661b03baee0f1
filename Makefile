# `make demo` and `make test` are all that a newcomer types.
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs readme wheel bench clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lissome needs Python 3.11 or newer; this is %s. Say which with: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## solve a 10-dimensional equation, adapt it to its family, open demo/adapted/index.html
	$(BIN)/lissome demo --out demo

test: $(READY) ## the quick tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY) ## all tests, the slow ones too
	$(BIN)/python -m pytest -n 2

lint: $(READY) ## style, docstrings, types of the public API, numbers of the README
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m benchmarks.readme --check

.venv/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: .venv/.docs ## the pages, one per paper and the reference as a site, build/docs/index.html
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs

readme: $(READY) ## the numbers of README.md and docs/optimizers.md, from benchmarks/results/
	$(BIN)/python -m benchmarks.readme

wheel: $(READY) ## sdist and wheel in dist/, run in an environment of the core dependencies alone
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python .ci/wheel.py dist
	.ci/other_python.sh

.venv-peers/.ready: benchmarks/peers.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -r benchmarks/peers.txt
	@touch $@

bench: .venv-peers/.ready $(READY) ## speed and memory against named peers
	$(PEERS)/python -m benchmarks

clean: ## remove what was built
	rm -rf .venv .venv-peers build dist docs/_generated
