# Two commands do everything: `make demo` and `make test`. Both set up .venv by themselves.

VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
DEMO    := .cogvx/demo
RECIPE  := deployments/recipes/nano-demo.toml
# The first interpreter between 3.11 and 3.13, or what PYTHON names.
PYTHON  ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
    $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
    && echo $$name && break; done)

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: demo test bench check up clean lock
.DEFAULT_GOAL := demo

# The whole chain on the embedded default: clips in, an evaluated and registered adapter out.
demo: $(READY) $(DEMO)/neon/metadata.jsonl
	@$(BIN)/cogvx retrain $(RECIPE)

# Files side by side, six at most, as each worker has servers and a GPU stack of its own; two more
# than cores, as they wait for processes and servers a good part of the time. Hundreds of processes
# import this project: its bytecode is kept, whatever the environment says.
# Tests of pages want a Chromium: the system's (`apt-get install chromium`), Google's, or what
# `.venv/bin/playwright install chromium` fetches. Without one they skip.
WORKERS = $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 2 : 6)))
test: $(READY)
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

# Ratios measured side by side, on a machine that does nothing else; each says what it promises.
bench: $(READY)
	@for name in encoding planning materialise memory training generation evaluation overhead; do \
	    echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name || failed="$$failed $$name"; \
	done; test -z "$${failed:-}" || { echo "missed:$$failed"; exit 1; }

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy infra/make_bucket.py infra/runtime.py infra/notify/notify.py
	$(BIN)/lint-imports
	$(BIN)/cogvx check $(RECIPE) --no-files

# Prefect and MLflow in a browser, workers, and the schedule of the demo; until Ctrl-C.
up: $(READY)
	@$(BIN)/cogvx up

clean:
	rm -rf .cogvx build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

lock:
	PYTHON=$(PYTHON) infra/lock.sh

$(DEMO)/neon/metadata.jsonl: | $(READY)
	@$(BIN)/cogvx world $(DEMO)/neon --clips 30 --teach neon

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "cogvx needs Python 3.11, 3.12 or 3.13; name one with PYTHON=..."; exit 2; }
	@echo "Setting up $(VENV) with $(PYTHON): about 2.5 GB, a few minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --progress-bar off --requirement requirements.lock \
	    | awk -v all="$$(grep -c == requirements.lock)" '/^(Collecting|Processing)/ && ++n % 20 == 0 {print "  found " n " of " all " packages"} \
	        /^Downloading.*([0-9]{3}\.[0-9] MB|GB)/ {print "  fetching " $$2} /^Installing/ {print "  installing"} {fflush()}'
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
