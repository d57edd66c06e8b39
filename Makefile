# SPDX-License-Identifier: Apache-2.0
# Makefile - demo, test, setup, bench, lint, soak. Every target is safe to repeat.

# The Python that nbdkit embeds: the virtual environment must be of the same.
PYTHON = /usr/bin/python3
BIN = .venv/bin
SOAK_SECONDS = 60

# What the compiled module is made from.
CORE = setup.py $(foreach room,_core ext4,$(wildcard obdengine/$(room)/*.c \
         obdengine/$(room)/*.h obdengine/$(room)/ffi_build.py)) \
       $(wildcard nbdkit_plugin/*.c)

.PHONY: help demo test setup packages bench lint soak clean

help:
	@echo 'make demo    build a small system in layers and boot it over NBD'
	@echo 'make test    run the test suite (PYTEST="-k name" for some of it)'
	@echo 'make setup   only install what is missing and build: .venv/bin/obd'
	@echo 'make lint    formatting, types, spelling, rooms'
	@echo 'make bench   measure, into docs/benchmarks.md'
	@echo 'make soak    fuzzers and long runs, $(SOAK_SECONDS) s each'
	@echo 'make clean   remove what was built; the downloads of the demo stay'

demo: setup
	@images/demo.sh

test: setup
	$(BIN)/python -m pytest $(PYTEST)

# One after the other: the packages are needed to make the environment.
setup: packages
	@$(MAKE) -s .venv/built

packages:
	@.ci/packages

.venv/bin/python:
	@echo 'making .venv'
	$(PYTHON) -m venv .venv

# Build isolation is off, so that a second build needs no network.
.venv/tools: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -qq 'setuptools>=66' wheel 'cffi>=1.15'
	@touch $@

.venv/built: .venv/tools $(CORE)
	@echo 'building obdengine into .venv'
	$(BIN)/pip install -qq --no-build-isolation -e '.[test]'
	@$(BIN)/pip install -qq --no-build-isolation -e '.[libvirt]' 2>/dev/null || \
	    echo 'without libvirt-python: obd vm works with --qmp (see obd doctor)'
	@touch $@

bench: setup
	$(BIN)/python -m tests.bench

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_rooms.py

soak: setup
	@.ci/packages packages-soak.txt
	$(BIN)/pip install -qq --no-build-isolation -e '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py --seconds $(SOAK_SECONDS)
	OBD_HYPOTHESIS=soak $(BIN)/python -m pytest -m soak --timeout=3600

clean:
	rm -rf .venv build dist *.egg-info .demo/work obdengine/*.so obdengine/*/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
