# Thin: every target calls one tool. `make setup` runs first and is quick when nothing is to be done.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup build extension demo test conformance soak soak-sim mutants chaos chaos-docs bounds bounds-docs bench bench-faults bench-micro benchmarks lint format asan tsan cuda gpu-check wheel wheels clean

help:
	@echo "make demo | test | conformance | chaos | bounds | bench | bench-faults | bench-micro | benchmarks | lint | format | asan | tsan | cuda | gpu-check | wheel | wheels | soak | soak-sim | mutants | clean"

setup:
	@tools/setup.sh

build: setup
	@tools/build.sh release

# The Python extension alone, without the C++ tests.
extension: setup
	@tools/build.sh release papilio_C

demo: extension
	@$(PY) examples/demo.py

test: build
	@tools/build_cuda.sh --if-there
	@$(PY) tools/run_tests.py

# torch's own DistributedTest for papilio and for gloo; CONFORMANCE_ARGS takes e.g. --world-size 8
conformance: extension
	@$(PY) tests/conformance/run.py $(CONFORMANCE_ARGS)

# The long versions of the fault tests.
soak: build
	@PAPILIO_TEST_SOAK=1 $(PY) tools/run_tests.py --only python --timeout 3600

# Every fault in every phase, size and number of ranks; CHAOS_ARGS takes e.g. --only SIGKILL "8 ranks"
chaos: extension
	@$(PY) tests/chaos --output-dir build/chaos $(CHAOS_ARGS)

# The table of the last `make chaos` into docs/faults.md.
chaos-docs: setup
	@$(PY) tests/chaos --output-dir build/chaos --docs docs/faults.md

# Every figure that is promised about faults, measured and judged; BOUNDS_ARGS takes e.g. --only kill --times 10
bounds: extension
	@$(PY) tests/bounds --output-dir build/bounds $(BOUNDS_ARGS)

# The table of the last `make bounds` into docs/faults.md.
bounds-docs: setup
	@$(PY) tests/bounds --output-dir build/bounds --docs docs/faults.md

# The simulator alone: a million collectives under random faults, over all cores. SOAK_ARGS takes
# e.g. --rounds 5000000 --first 7
soak-sim: setup
	@tools/build.sh release sim_test
	@PAPILIO_TEST_SOAK=1 build/release/sim_test --gtest_brief=1 --gtest_filter='*LinkTest*'
	@$(PY) tools/soak_sim.py $(SOAK_ARGS)

# Which job notices that a rule of the protocol is switched off, and after how many.
mutants: setup
	@tools/build.sh release mutants_test
	@PAPILIO_MUTANT_RUNS=$${PAPILIO_MUTANT_RUNS:-20000} build/release/mutants_test | grep -E "^rule |^\[  (PASSED|FAILED) " ; exit $${PIPESTATUS[0]}

bench: build
	@$(PY) -m papilio.bench --interleave papilio,gloo --output-dir build/bench $(BENCH_ARGS)
	@$(PY) -m papilio.bench --interleave papilio,gloo --mode streaming --block 50 -n 400 -b 64 -e 64K -f 4 --output-dir build/bench/back-to-back $(BENCH_ARGS)

# A rank that dies, one that freezes for a second and one that computes longer, beside Gloo.
bench-faults: extension
	@$(PY) bench/benchmarks.py --no-page --only killed frozen straggler

# All of docs/benchmarks.md, measured and written (10 minutes); BENCHMARKS_ARGS takes e.g. --only ucx
benchmarks: extension
	@$(PY) bench/benchmarks.py $(BENCHMARKS_ARGS)

# The C++ parts alone; BENCH_ARGS takes Google Benchmark's flags, e.g. --benchmark_filter=crc
bench-micro: build
	@cmake --build --preset release --target papilio_micro >build/bench-micro.log || { cat build/bench-micro.log >&2; exit 1; }
	@build/release/papilio_micro $(BENCH_ARGS)

lint: setup
	@tools/lint.sh

format: setup
	@tools/lint.sh --fix

asan: setup
	@tools/build.sh asan
	@$(PY) tools/run_tests.py --preset asan --only cpp

tsan: setup
	@tools/build.sh tsan
	@$(PY) tools/run_tests.py --preset tsan --only cpp

cuda: setup
	@tools/build_cuda.sh

# On a machine with GPUs: builds, tests and measures; exit status 3 (make's: 2) without one.
gpu-check: setup
	@$(PY) tools/gpu_check.py $(GPU_ARGS)

wheel: setup
	@rm -rf dist && mkdir -p build
	@echo "wheel: building (log in build/wheel.log)" >&2
	@$(PY) -m build --wheel --no-isolation -o dist . >build/wheel.log 2>&1 || \
	  { tail -30 build/wheel.log >&2; exit 1; }
	@ls dist/*.whl

# One for every supported torch minor, each built and tried in environments of its own.
wheels: setup
	@$(PY) tools/wheels.py

# Everything that was built. The environment (.venv) and the installer in build/tools stay.
clean:
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +; fi
	@rm -rf dist papilio/_C.so papilio/_built.py *.egg-info .ruff_cache
	@find papilio tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} +
