# Two commands do all the set-up: `make demo` and `make test`.  `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# A Python >= 3.11: the first that fits, or say so: make test PYTHON=/path/to/python3
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?=

.PHONY: help
help:  ## this list
	@grep -hE '^[a-zA-Z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# ---- environments: one folder, a stamp for each set of extras ------------------------------------------------

$(VENV)/python.stamp:
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11 or newer. Received: none (make PYTHON=…)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "installing the project and JAX into $(VENV) …"
	$(PIP) --editable '.[jax]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) --editable '.[jax,test]'
	@touch $@

$(VENV)/lint.stamp: $(VENV)/run.stamp
	$(PIP) --editable '.[jax,test,lint]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(PIP) --editable '.[jax,docs]'
	@touch $@

$(VENV)/backends.stamp: $(VENV)/test.stamp
	$(PIP) --editable '.[jax,test,tensorflow,torch]'
	@touch $@

# ---- for users -----------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/run.stamp  ## a federation on this machine: broker, manager, 3 trainers, 2 predictors; ARGS="--rounds 20"
	$(BIN)/fedlearn demo $(ARGS)

# ---- for developers ------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/test.stamp mosquitto  ## all tests, on JAX; PYTEST_ARGS="-k wire" for some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test_backends
test_backends: $(VENV)/backends.stamp mosquitto  ## what depends on Keras, on TensorFlow and PyTorch
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest tests/learning tests/services/test_backends.py $(PYTEST_ARGS)
	KERAS_BACKEND=torch $(BIN)/python -m pytest tests/learning tests/services/test_backends.py $(PYTEST_ARGS)
	$(BIN)/python -m pytest tests/learning/test_backends.py tests/services/test_backends.py $(PYTEST_ARGS)  # mixed

.PHONY: mosquitto
mosquitto:
	@if PATH=$$PATH:/usr/sbin command -v mosquitto >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mosquitto mosquitto-clients >/dev/null; \
	else echo "Mosquitto is not installed (apt-get install mosquitto mosquitto-clients): its tests are skipped"; fi

.PHONY: lint
lint: $(VENV)/lint.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/test.stamp mosquitto  ## benchmarks, as ratios in one run; results are printed and kept in artifacts/bench
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: docs
docs: $(VENV)/docs.stamp  ## the documentation as a web site, in artifacts/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir artifacts/docs
	@echo "artifacts/docs/index.html"

.PHONY: clean
clean:  ## remove what was built, not what was learnt
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache
