# Capacity Under Uncertainty. Needs git, make, Python 3.11-3.13 and Node 20; everything else is installed into .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
LARGE := .venv-foundation
PY := $(VENV)/bin/python
THEME ?= own
OUT ?= report
export PYTHONWARNINGS ?= ignore::DeprecationWarning

.DEFAULT_GOAL := help
.PHONY: help book test twins foundation lab report notebooks check lock clean install

help: ## what each command does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed book/theme/node_modules/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "installing the locked Python packages into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11, 3.12 or 3.13 is needed, this is {v[0]}.{v[1]}. Name another with: make PYTHON=python3.12 ...")'
	@start=$$(date +%s); set -e; test -x $(PY) || $(PYTHON) -m venv $(VENV); \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock; \
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	touch $@; echo "Python packages: $$(( $$(date +%s) - start )) s"

book/theme/node_modules/.installed: book/theme/package-lock.json
	@command -v node >/dev/null || { echo "Node 20 or newer is needed (mystmd runs on it) and was not found."; exit 1; }
	@start=$$(date +%s); cd book/theme && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/.installed; \
	echo "fonts and formula styles: $$(( $$(date +%s) - start )) s"

book: install ## execute every chapter and build the site (THEME=stock: mystmd's own theme)
	@$(PY) -m book.build --theme $(THEME)

test: install ## everything that guards the project
	@$(PY) -m book.notebooks --check
	@$(PY) -m ruff check --quiet . && echo "ruff: clean"
	@$(PY) -m pytest -q -n 2 tests support book
	@$(PY) -m book.execute --profile smoke
	@$(PY) -m pytest -q -p no:xdist --nbval-lax --nbval-kernel-startup-timeout 180 --nbval-cell-timeout 300 _build/smoke/*.ipynb
	@echo "All tests passed. Next: make book"

twins: install ## execute every chapter as it is where none of the real traces can be had
	@$(PY) -m book.execute --profile twins

foundation: install ## test the adapters for the large published models, in an environment of their own that has PyTorch
	@test -x $(LARGE)/bin/python || $(PY) -m venv $(LARGE)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(LARGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/book.pth"
	@echo "installing PyTorch and the models' libraries into $(LARGE)"
	@$(LARGE)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["foundation"], sep="\n")' > $(LARGE)/extra.txt
	@$(LARGE)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch==2.13.0 -r $(LARGE)/extra.txt
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LARGE)/bin/python -m pytest -q -p no:xdist tests/forecasting/test_foundation.py

lab: install ## open your own copies of the chapters, in lab/, in JupyterLab
	@$(PY) -m book.notebooks --copies lab
	@echo "JupyterLab opens in your browser; its address stands below too. To stop it: Ctrl-C"
	@$(PY) -m jupyterlab --notebook-dir=lab $(OPTIONS)

report: install ## SOURCE=my.csv: one HTML report and a decision.json in OUT (default report/)
	@test -n "$(SOURCE)" || { echo "Say which file: make report SOURCE=my.csv"; exit 2; }
	@$(PY) -m support.operations.report "$(SOURCE)" --out "$(OUT)" $(OPTIONS)

notebooks: install ## write notebooks/*.ipynb from notebooks/*.md
	@$(PY) -m book.notebooks

check: install ## formatting, lint and types
	@$(PY) -m ruff format --check --quiet . || { echo "Next: $(PY) -m ruff format ."; exit 1; }
	@$(PY) -m ruff check .
	@$(PY) -m mypy support book

lock: install ## pin requirements.lock and environment.yml anew from pyproject.toml
	@$(PY) -m uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock
	@$(PY) -m book.environment

clean: ## remove what was built (keeps .venv; make clean ALL=1 removes it too)
	@rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis report
	@if [ -n "$(ALL)" ]; then rm -rf $(VENV) $(LARGE) book/theme/node_modules *.egg-info; fi
	@echo "removed what was built. Next: make book"
