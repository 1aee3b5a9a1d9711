# Thin: every target calls one tool. `make setup` runs first and is quick when nothing is to be done.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup build demo test soak bench lint format asan tsan cuda wheel clean

help:
	@echo "make demo | test | bench | lint | format | asan | tsan | cuda | wheel | soak | clean"

setup:
	@tools/setup.sh

build: setup
	@tools/build.sh release

demo: build
	@$(PY) examples/demo.py

test: build
	@$(PY) tools/run_tests.py

# The long versions of the fault tests.
soak: build
	@PAPILIO_TEST_SOAK=1 $(PY) tools/run_tests.py --only python --timeout 3600

bench: build
	@$(PY) -m papilio.bench --interleave papilio,gloo

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

wheel: setup
	@$(PY) -m build --wheel --no-isolation -o dist .

clean:
	rm -rf build/dev build/release build/asan build/tsan build/cuda build/wheel papilio/_C.so
