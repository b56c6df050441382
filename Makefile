# Every target sets itself up from a clean checkout; the network needed is the package registries'.
.DEFAULT_GOAL := help
VENV ?= .venv
export VENV
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup system demo test test-long test-slow test-napari bench review-session lint format types imports manifest check docs wheel-check clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(READY): pyproject.toml requirements/constraints.txt scripts/setup.sh
	@scripts/setup.sh
	@touch $@

setup: system $(READY)  ## the environment in .venv, with all that the other targets need

system:
	@scripts/system-packages.sh

demo: setup  ## segment a real CT in napari; without a display, into demo-output/
	@$(BIN)/napari-transunet demo

test: setup  ## all tests but the long and the slow ones (JOBS=1: in one process, not in two)
	@JOBS=$(JOBS) scripts/test.sh

test-napari: setup  ## the viewer's tests with each version of napari that is allowed (NAPARI="0.6.6 0.8.0": with these)
	@NAPARI="$(NAPARI)" scripts/test-napari.sh $(ARGS)

test-long: setup  ## the tests that take seconds each, which make test leaves out
	@JOBS=$(JOBS) scripts/test.sh -m long

test-slow: setup  ## the slow tests, in one process, since some measure memory and time
	@JOBS=1 scripts/test.sh -m slow

bench: setup  ## the benchmarks (ARGS=--quick: small ones)
	@scripts/bench.sh $(ARGS)

lint: $(READY)  ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY)  ## let ruff lay the code out
	@$(BIN)/ruff check --fix-only --exit-zero -q .
	@$(BIN)/ruff format -q .

types: $(READY)  ## mypy, strict: the package, the benchmarks and the scripts
	@$(BIN)/mypy

imports: $(READY)  ## who may import whom
	@$(BIN)/lint-imports

manifest: setup  ## the plugin manifest, as napari sees it
	@$(BIN)/npe2 validate napari-transunet

check: lint types imports manifest  ## all of the above four

docs: $(READY)  ## the documentation as a site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

review-session: setup  ## a whole review of labels on the real CT, killed and restored, with pictures
	@scripts/with-display.sh $(BIN)/python scripts/review_session.py $(ARGS)

wheel-check: setup  ## build the wheel and use it alone in a clean environment
	@scripts/wheel-check.sh

clean:  ## remove all that make and the tests have made
	rm -rf $(VENV) build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
