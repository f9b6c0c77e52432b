# Every target makes its own environment in .venv first; nothing else is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
USABLE := $(VENV)/.usable
NEWEST := .venv-triton39
JOBS   ?= 2
PIP_ARGS ?=
OUT    ?= out/gpu
MINUTES ?= 8

.DEFAULT_GOAL := help
.PHONY: help demo test docs browser triton39 gpu lint types figures clean

help:
	@echo "make demo    train a small transformer on the CPU and show what came out (two minutes)"
	@echo "make test    run every test that needs no GPU"
	@echo "make docs    build the site into out/site (four minutes)"
	@echo "make browser install Debian's chromium, which tests of the site open"
	@echo "make triton39  part of them with Triton 3.9, the newest that is supported"
	@echo "make gpu     check and measure on this machine's GPU with its own Python (8 minutes)"
	@echo "             OUT=folder PYTHON=python3 MINUTES=8"
	@echo "make lint    ruff, format and import order"
	@echo "make types   mypy, strict on the core"
	@echo "make figures measure this machine and write the figures into README.md (long)"
	@echo "make clean   remove what make made: .venv, out/"

# The environment: with what a user needs, or with what tests need too (Triton is half a gigabyte).
define INSTALL
@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed, this is " + sys.version) \
	if sys.version_info < (3, 10) else 0'
@command -v $${CXX:-g++} >/dev/null || { echo "A C++ compiler (g++ or \$$CXX) is needed"; exit 1; }
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	echo "python3 -m venv failed (on Debian: apt install python3-venv)"; exit 1; }
$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	-c constraints.txt -e
endef

$(USABLE): pyproject.toml constraints.txt
	$(INSTALL) '.[gym]'
	@touch $@

$(READY): pyproject.toml constraints.txt
	$(INSTALL) '.[gym,test,docs,dev]'
	@touch $@ $(USABLE)

demo: $(USABLE)
	$(BIN)/python -m attention_gym train --demo --out out/demo

# Opens pages in tests. Where it is there already nothing is done.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$SUDO apt-get update -q && $$SUDO apt-get install -q -y --no-install-recommends \
		chromium chromium-driver; }

docs: $(READY)
	$(BIN)/python docs/site/build.py --out out/site

test: $(READY) browser
	$(BIN)/python -m pytest -n $(JOBS) -m 'not gpu' -q
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/interpreted -n $(JOBS) -q

$(NEWEST)/.ready: | $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		--no-deps --upgrade --target $(NEWEST) triton==3.9.0
	@touch $@

# A sample of what Triton does for us, compiled for GPUs and interpreted, with another Triton.
triton39: $(READY) $(NEWEST)/.ready
	PYTHONPATH=$(CURDIR)/$(NEWEST) $(BIN)/python -m pytest tests/targets -n $(JOBS) -q \
		-k '(sm_80 or sm_90 or gfx942) and (128 or chunk)'
	PYTHONPATH=$(CURDIR)/$(NEWEST) TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(JOBS) -q \
		tests/interpreted/test_gpu_suite.py tests/interpreted/test_decode_template.py

# The machine's own Python, torch and Triton: nothing is installed, no environment is made.
gpu:
	@command -v $(PYTHON) >/dev/null || { echo "make gpu: there is no $(PYTHON)"; exit 1; }
	@$(PYTHON) -c 'import torch' 2>/dev/null || { \
		echo "make gpu: $(PYTHON) has no torch; name one that has: make gpu PYTHON=..."; exit 1; }
	$(PYTHON) -m flexattn bench gpu --out $(OUT) --minutes $(MINUTES)

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(READY)
	$(BIN)/python -m mypy

figures: $(READY)
	mkdir -p docs/benchmarks
	for suite in cpu-forward cpu-backward cpu-decode threads mods latency startup memory masks; do \
		$(BIN)/python -m flexattn bench $$suite --output docs/benchmarks/$$suite.json || exit 1; \
	done
	$(BIN)/python docs/benchmarks/mask_recipes.py --no-peers
	$(BIN)/python -m attention_gym bench --all --output docs/benchmarks/gallery/recipes.json
	$(BIN)/python docs/fill_figures.py

clean:
	rm -rf $(VENV) $(NEWEST) out
