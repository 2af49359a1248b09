# One command per task. Each sets up the virtual environment when it is missing or older than the lists of packages.
# PYTHON may name one; otherwise the first of these that is new enough, and not newer than the lock knows.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPARK := $(VENV)/.installed-spark
WORKERS ?= 2
# Some machines forbid Python to keep what it has compiled. Here each of many processes would then compile a thousand
# modules again, for seconds: what is compiled is kept, in .venv and beside the code. Empty means allowed.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help book test test-fast test-notebooks test-book lab benchmark lint lock clean
.DEFAULT_GOAL := help

help:
	@echo "make book        build the course in _build/html (open _build/html/index.html)"
	@echo "make test        run every test: code, data, model, service, notebooks, book"
	@echo "make lab         open JupyterLab on the notebooks"
	@echo "make benchmark   measure, print a table, write _build/benchmarks.json (ONLY=prefix for a part)"
	@echo "make lint        run the checks of pre-commit on every file"
	@echo "make lock        compile the requirements files from pyproject.toml (LOCK_FLAGS=--upgrade for newer releases)"
	@echo "make clean       remove the built book and data/; .venv stays"

# The first line of the recipe says in one sentence what is missing, where no Python is new enough.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed and '$(PYTHON)' is not that: install one, or name it, as in: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -m venv --clear $(VENV) || { echo "'$(PYTHON) -m venv' failed: install the venv module (Debian and Ubuntu: apt install python3-venv) and try again." >&2; exit 1; }; }
	@# --no-compile: Python compiles what is used; the many modules that never are would take 300 MB.
	@echo "Installing the packages of requirements.txt into $(VENV): some minutes the first time."
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt
	@touch $(STAMP)

# Spark is 450 MB that only a test needs; the book does without.
$(SPARK): $(STAMP) requirements-spark.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --disable-pip-version-check -r requirements-spark.txt
	@touch $(SPARK)

book: $(STAMP)
	$(BIN)/python book/execute.py
	$(BIN)/jupyter-book build . -W -n --keep-going

test: $(SPARK)
	$(BIN)/python tests/run_all.py

# Parts of `test`, for daily work.
test-fast: $(SPARK)
	$(BIN)/python tests/run_all.py code

test-notebooks: $(STAMP)
	$(BIN)/python tests/run_all.py notebooks

test-book: $(STAMP)
	$(BIN)/python tests/run_all.py book

lab: $(STAMP)
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/01_data_collection.ipynb

benchmark: $(STAMP)
	grep -v '^-e' requirements.txt > $(VENV)/constraints.txt  # pip takes no project of ours as a constraint
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -r tests/benchmarks/requirements.txt
	$(BIN)/python tests/benchmarks/run.py $(if $(ONLY),--only $(ONLY))

lint: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/pre-commit run --all-files

# `-e .` at the end makes `pip install -r requirements.txt` enough for a notebook to import the package.
lock:
	test -x $(VENV)-lock/bin/uv || { $(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv; }
	$(VENV)-lock/bin/uv pip compile pyproject.toml --extra book --extra test --universal --python-version 3.11 \
	  --custom-compile-command "make lock" --annotation-style line --quiet $(LOCK_FLAGS) -o requirements.txt
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["spark"], sep="\n")' | \
	  $(VENV)-lock/bin/uv pip compile - --constraint requirements.txt --universal --python-version 3.11 \
	  --custom-compile-command "make lock" --annotation-style line --quiet $(LOCK_FLAGS) -o requirements-spark.txt
	printf '\n# The package of this repository.\n-e .\n' >> requirements.txt

clean:
	rm -rf _build data .pytest_cache .ruff_cache .hypothesis
