# `make demo` and `make test` set up all they need in .venv; CONTRIBUTING.md has the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The release that results in bench/results were measured with.
TORCH := torch==2.13.0

.PHONY: demo test lint clean

$(VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[demo$$($(BIN)/python -c "import torch; cuda = torch.version.cuda; print(f',cuda{cuda.split(chr(46))[0]}' if cuda and torch.cuda.is_available() else '')")]" --group test
	touch $@

demo: $(VENV)/ready
	$(BIN)/cfcam-gpu demo --out out/demo --overwrite

test: $(VENV)/ready lint
	$(BIN)/python -m pytest

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist out

# On a machine with a GPU, with the Python that has torch, CuPy, cuML and pytest; writes OUT/<device>.json.
.PHONY: gpu-check
OUT ?= bench/results
gpu-check:
	$(PYTHON) -m bench.gpu_check $(OUT)
