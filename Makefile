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

# The kernels on the CPU under AddressSanitizer and ThreadSanitizer, each CUDA thread a thread of the system; minutes.
# An error ends the run with the sanitizer's report, which names the kernel's line.
.PHONY: sanitize
SANITIZE = LD_PRELOAD=$$(g++ -print-file-name=lib$(1)san.so) CFCAM_SANITIZE=$(2) \
	$(BIN)/python -m pytest tests/host -q -s -k "(dbscan and sparse) or (every_case and ties)"
sanitize: $(VENV)/ready
	ASAN_OPTIONS=detect_leaks=0 $(call SANITIZE,a,address)
	TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" $(call SANITIZE,t,thread)

# On a machine with a GPU, with the Python that has torch, CuPy, cuML and pytest; writes OUT/<device>.json.
# ARGS="--only latency", say; ARGS=--help lists what there is.
.PHONY: gpu-check
OUT ?= bench/results
gpu-check:
	$(PYTHON) -m bench.gpu_check $(OUT) $(ARGS)

# Ours beside pytorch-grad-cam and torch-cam, in an environment of its own. Their dependencies are left out, so that
# none of them replaces torch; bench/torchvision_shim.py has why torchvision is content with that.
.PHONY: bench-latency
BENCH_VENV ?= .venv-bench
BENCH_PIP := $(BENCH_VENV)/bin/python -m pip install -q
PEERS := grad-cam==1.5.7 torchcam==0.5.0 torchvision==0.28.0 opencv-python-headless==5.0.0.93 ttach==0.0.3

$(BENCH_VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_PIP) --upgrade pip
	$(BENCH_PIP) $(TORCH)
	$(BENCH_PIP) -e ".[demo]" tqdm
	$(BENCH_PIP) --no-deps $(PEERS)
	touch $@

bench-latency: $(BENCH_VENV)/ready
	$(BENCH_VENV)/bin/python -m bench.latency
