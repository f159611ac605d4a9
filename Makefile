# Two commands are enough: `make demo` and `make test`; each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: env demo test test-slow test-kubernetes lint docs linkcheck clean bench bench-small bench-implicit bench-recommend bench-fold-in bench-accuracy bench-scaling

env: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: env
	$(BIN)/dask-als demo

test: env
	$(BIN)/python -m pytest

test-slow: env
	$(BIN)/python -m pytest -m slow -rP

# Needs KUBECONFIG, the Dask operator, and the image of k8s/Dockerfile as dask-als:test.
test-kubernetes: env
	$(BIN)/python -m pytest -m kubernetes

# HTML into docs/_build/html; runs the quickstart notebook. Warnings are errors.
docs: $(VENV)/docs-installed
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html

# Links to other sites; needs a network.
linkcheck: $(VENV)/docs-installed
	$(BIN)/sphinx-build -W --keep-going -q -b linkcheck -D nb_execution_mode=off docs docs/_build/linkcheck

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,docs]'
	touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build demo docs/_build

# The peers need gcc and Java; they are installed into a venv of their own.
bench: env
	$(BIN)/python tests/benchmarks/run_benchmarks.py

bench-small: env
	$(BIN)/python tests/benchmarks/run_benchmarks.py --small

bench-implicit: env
	$(BIN)/python tests/benchmarks/implicit_agreement.py

bench-recommend: env
	$(BIN)/python tests/benchmarks/recommend.py

# Needs ml-latest-small.zip here: .venv/bin/dask-als fetch ml-latest-small
bench-accuracy: env
	$(BIN)/python tests/benchmarks/compare_accuracy.py

# Every study of docs/scaling.md; the one of hosts needs root.
bench-scaling: env
	$(BIN)/python tests/benchmarks/scaling.py all

# After bench-recommend, whose model it takes.
bench-fold-in: env
	$(BIN)/python tests/benchmarks/fold_in.py
