# Needs Python 3.11 to 3.13 (with venv), make and a C compiler. Name another interpreter with `make PYTHON=...`.
is_fit := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
find_python = for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c '$(is_fit)' 2>/dev/null && echo $$p && break; done
PYTHON ?= $(shell $(find_python))
GPU_PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
GOLDEN_EXTRA ?= $(wildcard ../shared/golden/scenarios ../shared/golden/portable)
SCENARIOS := tests/golden $(GOLDEN_EXTRA)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve-triton test check golden golden-triton bench load bench-triton bench-gpu proto lock clean rolling

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## create .venv and install masklet into it
	@echo ".venv is ready; the commands are $(BIN)/masklet and $(BIN)/masklet-client."

$(READY): pyproject.toml constraints.txt
	@test -x $(PY) || test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 with venv found: make PYTHON=..." >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -c '$(is_fit)' || { echo "$(PYTHON) is not Python 3.11 to 3.13 with venv: make PYTHON=..." >&2; exit 1; }
	@echo "Installing masklet into .venv: 1-3 minutes; with torch's CUDA libraries it takes 5 GB of disk."
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[engine,triton,kubernetes,load,tracing,dev]'
	@test "$$(uname -sm)" != "Linux x86_64" || $(BIN)/pip install -q --disable-pip-version-check --no-deps -c constraints.txt nvidia-pytriton
	@touch $@

demo: $(READY)  ## track an object through a small video, end to end
	$(BIN)/masklet demo

serve-triton: $(READY)  ## a Triton and the service in front of it; options of the service with ARGS=...
	@trap 'kill $$T $$S 2>/dev/null; wait' EXIT; trap 'exit 143' TERM HUP; trap 'exit 130' INT; \
	$(BIN)/masklet triton & T=$$!; \
	$(BIN)/masklet serve --backend triton --triton.connect_timeout_s 300 $(ARGS) & S=$$!; wait $$S

test: $(READY)  ## run all tests; pass options with ARGS=...
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(ARGS)

check: $(READY)  ## lint, format, types, fences between rooms, protos
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/mypy && $(BIN)/lint-imports
	$(PY) protos/generate.py check lint breaking

rolling: $(READY)  ## restart two fronts and two Tritons in turn under load, behind Envoy; options with ARGS=...
	OMP_NUM_THREADS=1 GRPC_ENABLE_FORK_SUPPORT=0 $(PY) -m tests.faults.rolling $(ARGS)

golden: $(READY)  ## replay the recorded scenarios of the reference implementation; more folders with GOLDEN_EXTRA=...
	$(BIN)/masklet verify $(SCENARIOS)

golden-triton: $(READY)  ## the same through Triton
	$(BIN)/masklet verify --backend triton $(SCENARIOS)

bench: $(READY)  ## measure on the CPU
	$(PY) loadtests/bench_cpu.py $(ARGS)

load: $(READY)  ## load a service and report latency, drops, capacity; options with ARGS=...
	$(BIN)/masklet-load $(ARGS)

bench-triton: $(READY)  ## measure Triton beside the embedded engine on the CPU
	$(PY) loadtests/bench_triton.py $(ARGS)

bench-gpu:  ## measure on a GPU, with GPU_PYTHON (needs torch and safetensors, no .venv)
	PYTHONPATH=service $(GPU_PYTHON) loadtests/bench_gpu.py $(ARGS)

proto: $(READY)  ## regenerate service/masklet/v1 from protos/
	$(PY) protos/generate.py generate

lock: $(READY)  ## fix anew what the images install (deploy/docker/requirements)
	$(PY) deploy/docker/lock.py

clean:  ## remove .venv, builds and caches
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
