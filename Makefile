# `make demo` and `make test` each turn a fresh clone into the result: Python >= 3.11 and g++ are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := setup.py pyproject.toml $(wildcard ext/core/* ext/bindings/* ext/training/*.pyx ext/training/*.pxi ext/training/*.h \
  ext/training/levels.* ext/training/kernels_*.c)

.PHONY: demo test test-slow lint conformance mutants judge judge-aarch64 ghost-run tsan bench clean

demo: $(INSTALLED)          ## train, pack, verify and ask on the shipped questions
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: $(INSTALLED)          ## the default tests
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)     ## the long ones too
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(INSTALLED)          ## style and types
	$(BIN)/python -m pip install -q -e ".[dev]"
	$(BIN)/ruff check .
	$(BIN)/mypy

conformance: $(INSTALLED)   ## every component on every backend of this machine
	$(BIN)/ghost verify

mutants: $(INSTALLED)       ## seeded faults: does the conformance kit catch every one of them?
	$(BIN)/python -m pip install -q -e ".[dev]"
	$(BIN)/python -m conformance mutate --target numpy --target training --target native --target mlx

judge:                      ## the native core against the golden vectors, without Python
	$(MAKE) -s -f conformance/judge_native/Makefile
	build/judge/ghost-judge conformance/golden/v1

ghost-run:                  ## one binary without Python, and libghost with its C header, in build/device
	$(MAKE) -s -f ext/cli/Makefile

judge-aarch64:              ## the same judge for AArch64: ghost verify then runs both NEON levels in an emulator
	$(MAKE) -s -f conformance/judge_native/Makefile CXX=aarch64-linux-gnu-g++ LDFLAGS=-static \
	  BUILD=$(CURDIR)/build/judge-aarch64

tsan:                       ## the threads of the native core under ThreadSanitizer
	$(MAKE) -s -f conformance/judge_native/Makefile SANITIZE=thread OPTIMISE=-O1 BUILD=$(CURDIR)/build/tsan \
	  $(CURDIR)/build/tsan/test-team $(CURDIR)/build/tsan/test-sharing
	build/tsan/test-team 300
	build/tsan/test-sharing conformance/golden/v1/model.ghost

bench: $(INSTALLED)         ## speed beside peers measured in the same run; QUICK=1: does it run at all?
	$(BIN)/python -m pip install -q -e ".[bench]"
	$(MAKE) -s ghost-run
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

$(INSTALLED): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e ".[test,plot]"
	$(BIN)/python -m pip install -q -e ".[mlx,mlx-cpu]" || echo "MLX has no wheel for this system: its tests are skipped"
	touch $@

clean:                      ## build products only; models and runs stay
	rm -rf build *.egg-info ghost_ref/*.so ext/training/_train.c
