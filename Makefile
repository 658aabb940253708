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
# Tests in so many processes, a file at a time; WORKERS=0: in one, as a debugger wants it.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help
help:  ## this list
	@grep -hE '^[a-zA-Z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 34

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

$(VENV)/deploy.stamp: $(VENV)/run.stamp
	@echo "installing Ansible into $(VENV) …"
	$(PIP) --editable '.[jax,deploy]'
	@touch $@

# ---- for users -----------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/run.stamp  ## a federation on this machine: broker, manager, 3 trainers, 2 predictors; ARGS="--rounds 20"
	$(BIN)/fedlearn demo $(ARGS)

# ---- for operators: a fleet, by Ansible and Docker Swarm; docs/how-to/forty-jetsons.md ------------------------

CLUSTER_INVENTORY ?= configuration/ansible/inventory.yaml
CONTEXT := artifacts/deploy/context.tar
# ARGS: what else Ansible is told, as ARGS="--check --diff" or ARGS="--limit manager,jetson-07".
PLAY = ANSIBLE_CONFIG=configuration/ansible/ansible.cfg $(BIN)/ansible-playbook --inventory $(CLUSTER_INVENTORY) $(ARGS)

.PHONY: all
all: cluster_ready  ## a whole fleet, from bare machines to a running federation; again: nothing changes
	$(PLAY) deploy/ansible/site.yaml

.PHONY: scale_swarm
scale_swarm: cluster_ready  ## hosts new in the inventory join; those decommissioned or gone leave
	$(PLAY) deploy/ansible/scale.yaml

.PHONY: update_fedLearn_configuration
update_fedLearn_configuration: cluster_ready  ## the services take the new configuration, one after another; no round is lost
	$(PLAY) deploy/ansible/configuration.yaml

.PHONY: rebuild_model
rebuild_model: cluster_ready  ## a new base model and scaler; the federation begins anew with it
	$(PLAY) deploy/ansible/model.yaml

.PHONY: rebuild_runtime_containers
rebuild_runtime_containers: cluster_ready  ## new images of the present code, and the services run them
	$(PLAY) deploy/ansible/runtime.yaml

.PHONY: cluster_status
cluster_status: cluster_ready  ## nodes, services and the federation, as they are now
	$(PLAY) deploy/ansible/status.yaml

.PHONY: destroy_docker_swarm
destroy_docker_swarm: cluster_ready  ## saves the model in artifacts/updated_model, then removes what `make all` made
	$(PLAY) deploy/ansible/destroy.yaml

.PHONY: cluster_ready
cluster_ready: $(VENV)/deploy.stamp  # nothing is touched while a file has a mistake; the same files make the same image
	@$(BIN)/fedlearn config check --inventory $(CLUSTER_INVENTORY)
	@mkdir -p $(dir $(CONTEXT))
	@tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w --exclude=__pycache__ \
		-cf $(CONTEXT) README.md pyproject.toml src deploy/docker
	@sha256sum <$(CONTEXT) | cut -c1-64 >$(CONTEXT).sha256

# ---- for developers ------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/test.stamp mosquitto  ## all tests, on JAX; PYTEST_ARGS="-k wire" for some
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test_backends
test_backends: $(VENV)/backends.stamp mosquitto  ## what depends on Keras, on TensorFlow and PyTorch
	KERAS_BACKEND=tensorflow $(PYTEST) tests/learning tests/services/test_backends.py $(PYTEST_ARGS)
	KERAS_BACKEND=torch $(PYTEST) tests/learning tests/services/test_backends.py $(PYTEST_ARGS)
	$(PYTEST) tests/learning/test_backends.py tests/services/test_backends.py $(PYTEST_ARGS)  # mixed

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

.PHONY: lint_deploy
lint_deploy: $(VENV)/deploy.stamp  ## ansible-lint
	$(PIP) --editable '.[jax,deploy,lint-deploy]'
	cd deploy/ansible && ANSIBLE_CONFIG=$(CURDIR)/configuration/ansible/ansible.cfg \
		PATH="$(abspath $(BIN)):$$PATH" ansible-lint -q --offline

.PHONY: test_cluster
test_cluster: $(VENV)/deploy.stamp $(VENV)/test.stamp  ## the deployment on a Swarm made here (root), or on the hosts of CLUSTER_INVENTORY=FILE
	FEDLEARN_CLUSTER="$(if $(filter file,$(origin CLUSTER_INVENTORY)),lab,$(abspath $(CLUSTER_INVENTORY)))" \
		$(BIN)/python -m pytest tests/cluster/test_cluster.py --exitfirst --capture=no $(PYTEST_ARGS)

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
