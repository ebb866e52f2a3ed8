# make demo   set up from nothing and run the main job on the built-in phantom
# make test   set up from nothing and pass every check
# make check  a subset of the checks, for your own loop: two minutes
# Both need Python 3.11 or newer with pip, and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUICK := $(addprefix tests/test_,$(addsuffix .py,bids dataset design docstrings fit front_door lesions mask nifti options \
	plots runs samples selection space statsmodel sums task))
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools

.PHONY: demo test check lint check-tests docs gallery linkcheck bench vendor clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/llm2bids demo llm2bids-demo --overwrite

test: lint check-tests

# What is pure and quick: no model runs for longer than a second, nothing is rendered, no command is typed.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(QUICK) llm2bids

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

# One thread per process: two processes of two threads each would fight over two cores.
check-tests: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations 10

docs: $(TOOLS)
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Runs all examples on the phantom, some minutes, and writes what they print and draw into docs/gallery.
gallery: $(TOOLS)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/make_gallery.py

# Asks the network whether every external link still leads somewhere.
linkcheck: $(TOOLS)
	$(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/linkcheck

bench: $(TOOLS)
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/analysis.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/components.py --settings
	$(BIN)/python benchmarks/lesions.py
	$(BIN)/python benchmarks/report.py

# Only to take another version of the viewer of our pages: what is in bids_templates/niivue is complete. Needs npm.
vendor:
	$(PYTHON) scripts/vendor_niivue.py

# torch comes first and alone: pip would otherwise take the newest, with gigabytes of CUDA where none is needed.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llm2bids needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch into $(VENV), the largest part: some minutes the first time ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@echo "Installing everything else, a minute or two ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(TOOLS): $(READY)
	@echo "Installing the tools of the tests, a minute ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) llm2bids-demo dist docs/_build docs/api/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
