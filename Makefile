# Two commands are enough: `make demo` and `make test`; each installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
KERNEL := $(wildcard dask_als/kernels/*.py dask_als/kernels/*/*.py dask_als/core/jit.py)

.PHONY: env demo test test-slow test-newest test-lowest test-typing test-kubernetes lint audit docs linkcheck clean bench bench-small bench-implicit bench-recommend bench-fold-in bench-accuracy bench-scaling

# For development; what the demo needs is in it.
env: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing all that development needs into $(VENV), about 2 GB"
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/installed-demo $@

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the demo needs into $(VENV), about 750 MB"
	@$(INSTALL) '.[demo]'
	@touch $@

$(BIN)/python:
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/compiled: $(VENV)/installed-demo $(KERNEL)
	@echo "Compiling the kernel for this processor, once"
	@$(BIN)/python -c "import numpy; from dask_als.kernels.least_squares import kernel_of; kernel_of(numpy.dtype('float32'))"
	@touch $@

demo: $(VENV)/compiled
	$(BIN)/dask-als demo

$(VENV)/compiled-for-tests: $(VENV)/installed $(KERNEL)
	@echo "Compiling the kernels of the fast tests for this processor, once"
	@$(BIN)/python tests/support/compile_kernels.py
	@touch $@

$(VENV)/compiled-for-slow-tests: $(VENV)/installed $(KERNEL)
	@echo "Compiling all kernels for this processor, once"
	@$(BIN)/python tests/support/compile_kernels.py --all
	@touch $@

# Two processes; a fixed seed of hashes, as both have to collect the same tests in the same order.
test: env $(VENV)/compiled-for-tests
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile

# Tests that measure time run after the others, one by one.
test-slow: env $(VENV)/compiled-for-slow-tests
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not alone' -rP
	$(BIN)/python -m pytest -m alone -rP

# `mypy --strict` of a program of a user against the installed wheel.
test-typing:
	.ci/typed-program

# With versions other than those of constraints.txt, on the newest and the oldest Python that is here.
test-newest test-lowest: test-%:
	.ci/other-versions $*

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

# The hooks of .pre-commit-config.yaml; `.venv/bin/pre-commit install` runs them before each commit.
lint: env
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files

# Known vulnerabilities of what constraints.txt pins; pip-audit has a venv of its own.
audit: $(VENV)/audit/bin/pip-audit
	$(PYTHON) .ci/audit.py $<

$(VENV)/audit/bin/pip-audit:
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit==2.10.1

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest build demo docs/_build

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
# The records of docs/accuracy.md need what records.py lists; a row without data is left out.
bench-accuracy: env
	$(BIN)/python tests/benchmarks/compare_accuracy.py
	$(BIN)/python tests/benchmarks/records.py

# Every study of docs/scaling.md; the one of hosts needs root.
bench-scaling: env
	$(BIN)/python tests/benchmarks/scaling.py all

# After bench-recommend, whose model it takes.
bench-fold-in: env
	$(BIN)/python tests/benchmarks/fold_in.py
