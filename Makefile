# `make` shows what there is. Settings are given as `make env NAME=value`:
#   PYTHON       interpreter to build on         (default: the newest supported one that torch has a wheel for)
#   BUILD        cpu, gpu or v100                (default: by the hardware)
#   TORCH_INDEX  one more package index, for torch
#   WORKERS      processes that run tests (default: 2; each opens an engine of its own, 0 is none)
.DEFAULT_GOAL := help
.PHONY: help env dev demo test

export PYTHON
BIN := .venv/bin
SETUP = $(or $(PYTHON),python3) scripts/setup_env.py $(if $(BUILD),--build $(BUILD)) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

help:  ## show this
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 12

env:  ## make the environment in .venv, or bring it up to date
	@$(SETUP)

dev:  ## the same, with ruff, mypy and pytest
	@$(SETUP) --dev

demo: env  ## four examples per class in, a measured classifier out, on an embedded task
	@$(BIN)/fourshot demo

test: dev  ## lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder
