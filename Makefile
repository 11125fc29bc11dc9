# The front door. It needs python3 (3.11 or later), make and git; everything else goes into .venv.

PYTHON ?= python3
VENV   ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN    := $(VENV)/bin
# The machine's own certificates, as pip uses them: networks with a certificate of their own are common.
UV     := $(BIN)/uv --system-certs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run serve test lint format bench picture requirements clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.13 picks the interpreter, ARGS=… goes to the program behind test and bench."

override PROMPT := $(value PROMPT)
export PROMPT
run: $(VENV)/.run ## Runs in the background, live, with a local model; PROMPT="…" asks your own question
	@$(BIN)/python -m examples.main_job $${PROMPT:+"$$PROMPT"}

PORT ?= 8123
serve: $(VENV)/.run ## The local model as a service, for the examples and for you; PORT=8123
	@$(BIN)/python -m examples.main_job.model_server --export --port $(PORT)

test: $(VENV)/.test ## Run the tests; ARGS="-k stream -x" goes to pytest
	$(BIN)/python -m pytest $(ARGS)

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
lint: $(VENV)/.lint ## Check style and types: ruff, pyright and mypy, all strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy

format: $(VENV)/.lint ## Rewrite the code the way the linter wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## Measure, and write benchmarks/RESULTS.md with its plots; ARGS=--quick only shows that all runs
	$(BIN)/python -m benchmarks $(ARGS)

picture: $(VENV)/.run ## Draw docs/img/main-job.svg from a run
	$(BIN)/python -m examples.main_job --svg docs/img/main-job.svg

# What is already pinned stays as it is; UPGRADE=--upgrade takes the newest.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make requirements" $(UPGRADE)

requirements: $(VENV)/.uv ## Pin the dependency groups of pyproject.toml again; UPGRADE=--upgrade moves the pins
	$(COMPILE) --group uv --output-file requirements/uv.txt
	$(COMPILE) pyproject.toml --group test --output-file requirements/test.txt
	$(COMPILE) pyproject.toml --group run --constraints requirements/test.txt --output-file requirements/run.txt
	$(COMPILE) pyproject.toml --group bench --constraints requirements/test.txt --output-file requirements/bench.txt
	$(COMPILE) pyproject.toml --group lint --constraints requirements/test.txt --output-file requirements/lint.txt

clean: ## Remove the environments and everything that was generated
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find agentbg tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each requirements file. A stamp that is up to date touches no network.

$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "agentbg needs Python 3.11 or later; name one, as in: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r requirements/uv.txt
	@touch $@

$(VENV)/.%: requirements/%.txt pyproject.toml $(VENV)/.uv
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps --only-binary :all: -r $<
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
