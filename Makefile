# demo   the whole way on drawn pictures, about three minutes
# test   everything CI runs: lint, types, tests
# test-all  those too that are slow: the largest models in full, every board on every emulated core; examples of
#           properties are drawn anew
# check  lint and types only
# test-oldest  the core of the tests on the oldest packages that setup.py admits (torch brings 5 GB of CUDA on x86-64)
# test-arm  the runtime on emulated ARM cores; sets them up first (Debian, 150 MB once, a few minutes)
# test-remote  boards over a real ssh, one of them with an emulated ARM core; fetches both first (Debian)
# bench  time a bundle on this computer: make bench BUNDLE=cells.eyb
# tables  the tables of README.md and docs/, from benchmarks/results, and the sizes that `edgeyolo models` lists
# clean  remove what the others made, but not .venv

PYTHON ?= python3
BUNDLE ?= demo/host-ncnn-int8.eyb
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

OLDEST := .venv-oldest/bin
# Not with them: what computes TensorRT's half-precision graph in ONNX Runtime, whose early versions round otherwise.
CORE := --ignore tests/backends/tensorrt/test_numbers.py $(addprefix tests/,spec geometry heads graph backends bundle contract runtime evaluation export quantization training zoo)

.PHONY: demo test test-all test-oldest test-arm test-remote check bench tables clean

demo: $(READY)
	$(BIN)/edgeyolo demo

test: check
	$(PYTEST) -m "not slow"

test-all: check
	EDGEYOLO_EXPLORE=1 $(PYTEST)

test-oldest:
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/python -m pip install --quiet --disable-pip-version-check --constraint tests/oldest.txt setuptools pytest pytest-xdist \
		hypothesis --editable '.[train,openvino,tensorrt,search,tensorboard,remote,live]'
	$(OLDEST)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -m "not slow" -W default $(CORE)

test-arm: $(READY)
	$(BIN)/python tests/arm/setup_arm.py
	EDGEYOLO_REQUIRE_ARM=1 $(PYTEST) tests/arm

test-remote: $(READY)
	$(BIN)/python tests/arm/setup_arm.py
	$(BIN)/python tests/boards/setup_sshd.py
	EDGEYOLO_REQUIRE_ARM=1 EDGEYOLO_REQUIRE_SSHD=1 $(PYTEST) tests/boards

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(BUNDLE)
	$(BIN)/edgeyolo bench $(BUNDLE)

demo/host-ncnn-int8.eyb: | $(READY)
	$(BIN)/edgeyolo demo

tables: $(READY)
	$(BIN)/python benchmarks/model_sizes.py
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools --editable '.[dev]'
	touch $@
