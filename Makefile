# Everything a person does with latefuse. `make` alone prints the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= configs/recipes/demo.yaml
PROFILE ?= local
SET ?=
WAIT ?=
KFP_HOST ?=
KUBE_CONTEXT ?=
NAMESPACE ?=
EXPERIMENT ?=
RUN_NAME ?=
RUN ?=
CRON ?=
NAME ?=
REPLACE ?=
STOP ?=
PRICES ?= configs/prices.yaml
PUSH ?=
ROWS ?=
PORT ?= 5000
WORKERS ?= 2
IMAGES ?= cpu gpu
REGISTRY ?= localhost
IMAGE_TAG ?= 0.1.0
PY_IMAGE ?= docker.io/library/python:3.11-slim
CUDA_IMAGE ?= docker.io/nvidia/cuda:13.0.2-base-ubuntu24.04
BUILDER ?= $(shell command -v docker || command -v podman || command -v buildah)

STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
SETS := $(foreach item,$(SET),--set '$(item)')
# A profile given by hand goes everywhere; else running is local and compiling is for a cluster.
CLUSTER_PROFILE := $(if $(filter command line environment,$(origin PROFILE)),$(PROFILE),cpu-cluster)

CLUSTER := --host '$(KFP_HOST)' $(if $(KUBE_CONTEXT),--context '$(KUBE_CONTEXT)') $(if $(NAMESPACE),--namespace '$(NAMESPACE)')
GROUP := $(if $(EXPERIMENT),--experiment '$(EXPERIMENT)')
yes = $(filter 1 yes true,$(1))

.PHONY: help setup test lint local-run mlflow-ui plan pipeline-compile pipeline-submit pipeline-upload pipeline-schedule \
  pipeline-watch images image-check bench clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## make .venv and install latefuse with everything for development

$(STAMP): pyproject.toml constraints.txt scripts/install.sh
	@PYTHON='$(PYTHON)' scripts/install.sh '$(VENV)'
	@touch $@

test: $(STAMP) ## run the tests: WORKERS=8 ARGS="tests/fusion -k ties"
	@$(BIN)/python -m pytest -n '$(WORKERS)' --dist loadfile $(ARGS)

lint: $(STAMP) ## ruff, mypy, yamllint, hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict .
	@$(BIN)/hadolint docker/Dockerfile.*

local-run: $(STAMP) ## run a recipe here: RECIPE=configs/recipes/x.yaml PROFILE=local SET="train.max_steps=20"
	@exec $(BIN)/latefuse run '$(RECIPE)' --profile '$(PROFILE)' $(SETS)

mlflow-ui: $(STAMP) ## open the runs in the browser: PORT=5000
	@case "$${MLFLOW_TRACKING_URI:-}" in \
	  http*) echo "the runs are at $$MLFLOW_TRACKING_URI" ;; \
	  *) exec $(BIN)/mlflow ui --port '$(PORT)' \
	       --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$${LATEFUSE_HOME:-$(CURDIR)/.latefuse}/mlflow.db}" ;; \
	esac

plan: $(STAMP) ## what a run would take: memory, hours, money, what is missing: RECIPE=... PROFILE=gpu ROWS=100000
	@exec $(BIN)/latefuse plan '$(RECIPE)' --profile '$(CLUSTER_PROFILE)' --prices '$(PRICES)' $(CLUSTER) $(if $(ROWS),--rows '$(ROWS)') $(SETS)

pipeline-compile: $(STAMP) ## write the pipeline for Kubeflow to build/: RECIPE=... PROFILE=cpu-cluster
	@exec $(BIN)/latefuse compile '$(RECIPE)' --profile '$(CLUSTER_PROFILE)' $(SETS)

pipeline-submit: $(STAMP) ## upload and start it: KFP_HOST=http://... RECIPE=... EXPERIMENT=... RUN_NAME=... WAIT=1
	@exec $(BIN)/latefuse submit '$(RECIPE)' --profile '$(CLUSTER_PROFILE)' $(CLUSTER) $(SETS) $(GROUP) \
	  $(if $(RUN_NAME),--run-name '$(RUN_NAME)') $(if $(call yes,$(WAIT)),--wait)

pipeline-upload: $(STAMP) ## upload a version, start nothing: KFP_HOST=http://... RECIPE=...
	@exec $(BIN)/latefuse upload '$(RECIPE)' --profile '$(CLUSTER_PROFILE)' $(CLUSTER) $(SETS)

pipeline-schedule: $(STAMP) ## start it by the clock (UTC): CRON="0 3 * * *" NAME=... REPLACE=1; STOP=disable or delete
	@exec $(BIN)/latefuse schedule '$(RECIPE)' --profile '$(CLUSTER_PROFILE)' $(CLUSTER) $(SETS) $(GROUP) \
	  --cron '$(CRON)' $(if $(NAME),--name '$(NAME)') $(if $(call yes,$(REPLACE)),--replace) $(if $(STOP),--stop '$(STOP)')

pipeline-watch: $(STAMP) ## look at a run that goes on: RUN=ID KFP_HOST=http://...
	@exec $(BIN)/latefuse watch '$(RUN)' $(CLUSTER)

images: ## build the images of the steps: IMAGES="cpu gpu" REGISTRY=... PY_IMAGE=...@sha256:... PUSH=1 notes their digests
	@PYTHON='$(PYTHON)' BUILDER='$(BUILDER)' REGISTRY='$(REGISTRY)' IMAGE_TAG='$(IMAGE_TAG)' PY_IMAGE='$(PY_IMAGE)' \
	  CUDA_IMAGE='$(CUDA_IMAGE)' PUSH='$(PUSH)' scripts/images.sh $(IMAGES)

image-check: $(STAMP) ## build the CPU image without a daemon and run the demo in it, on Debian as root with buildah
	@PYTHONPATH='$(CURDIR)' $(BIN)/python scripts/image_check.py

bench: $(STAMP) ## run the benchmarks, one after the other
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean: ## delete what was made here: runs, caches, build outputs; keeps .venv
	@rm -rf .latefuse build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	@find src tests pipelines components benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
