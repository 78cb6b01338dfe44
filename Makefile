# Every target works as the only command on a machine with Python 3.11+ and make: it sets up .venv by itself first.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup demo serve test test-slow check format proto bench bench-compare soak

help:
	@echo "make demo        the main job, in the terminal: one streamed answer with a tool call"
	@echo "make serve       the service for development, with an agent, a token and a grpcurl line to paste"
	@echo "make test        all tests, short forms (test-slow: the long ones)"
	@echo "make check       lint, format, types, architecture, contract"
	@echo "make format      let ruff and buf format"
	@echo "make proto       regenerate agentsvc/v1 from protos/"
	@echo "make bench       measure added time to first token (BENCH=--quick: whether the bench works)"
	@echo "make bench-compare  measure again, and fail when a ratio is 10 % worse than the stored run"
	@echo "make soak        steady traffic, and whether memory grows (MINUTES=15)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("agentsvc needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which: make PYTHON=python3.12")'
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --constraint constraints.txt pip
	@$(PIP) install --constraint constraints.txt --build-constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/agentsvc demo

serve: $(READY)
	@$(BIN)/agentsvc serve --dev

test: $(READY)
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n auto -m slow

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format protos --path protos/agentsvc --diff --exit-code
	$(BIN)/python protos/generate.py --breaking
	$(BIN)/python protos/generate.py --check

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format protos --path protos/agentsvc --write

proto: $(READY)
	$(BIN)/python protos/generate.py

bench: $(READY)
	$(BIN)/python -m bench.run $(BENCH)
	$(BIN)/python -m bench.decode

bench-compare: $(READY)
	$(BIN)/python -m bench.compare

soak: $(READY)
	$(BIN)/python -m bench.soak $(MINUTES)
