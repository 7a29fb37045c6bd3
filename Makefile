# make demo · make test · make test-all · make check · make chaos · make bench · make site
# Needs Python 3.11 or newer, pip and a package registry; everything else is installed in .venv.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
PAYLOAD := {{cookiecutter.project_slug}}
PROJECT := build/demo/my-project

FETCH := 'import os, pathlib, data_loader.fashion_mnist as f; f.FashionMNIST(pathlib.Path(os.environ.get("DATA_ROOT", "data")), "train", 0)'

export PATH := $(BIN):$(PATH)
export UV_LINK_MODE ?= copy

.PHONY: demo test test-all check chaos bench site clean

demo: .venv/ready
	@rm -rf build/demo
	@$(BIN)/cookiecutter . --no-input --default-config --output-dir build/demo 2> build/demo.log
	@cd $(PROJECT) && config=config/fashion_mnist.yaml && { $(BIN)/python -c $(FETCH) > $(CURDIR)/build/data.log 2>&1 || \
	{ echo "FashionMNIST is unavailable (see build/data.log); training on synthetic data instead."; config=config/synthetic.yaml; }; } && \
	$(BIN)/python train.py --config $$config --run-dir runs/demo && $(BIN)/python evaluate.py runs/demo
	@echo; echo "Project: $(PROJECT). Results: $(PROJECT)/runs/demo/evaluation/test. Curves and figures:"
	@echo ".venv/bin/tensorboard --logdir $(PROJECT)/runs"

test: .venv/ready
	$(BIN)/pytest

test-all: .venv/ready
	ALL=1 $(BIN)/pytest

check: .venv/ready
	ruff check . && ruff format --check . && mypy
	cd '$(PAYLOAD)' && ruff check . && ruff format --check . && mypy . && pytest

chaos: .venv/ready
	$(BIN)/python tests/chaos.py
	$(BIN)/python tests/chaos_sweep.py

bench: .venv/ready
	$(BIN)/uv pip install --quiet --python .venv -r benchmarks/requirements.txt
	$(BIN)/python benchmarks/report.py

site: .venv/ready
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv build

# The tools of the template and the dependencies of a generated project.
.venv/ready: pyproject.toml cookiecutter.json $(wildcard */pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is required, for example: make PYTHON=python3.12 ...")'
	@rm -rf .venv build/environment && mkdir -p build
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python .venv --editable '.[dev]'
	$(BIN)/cookiecutter . --no-input --default-config --output-dir build/environment 2> build/environment.log
	$(BIN)/uv pip install --quiet --python .venv 'build/environment/my-project[dev]'
	@touch .venv/ready
