# `make demo` and `make test` do all set-up themselves: they need Python 3.11 or newer and a package index.

PYTHON ?= python3
# On a machine with GPUs: make TORCH="torch" CONSTRAINTS= ...; the pinned one is what CPU tests and figures were made with.
TORCH ?= torch==2.13.0
CONSTRAINTS ?= constraints/cpu.txt
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-slow test-slurm check format bench clean

help:
	@echo "make demo        generate a corpus, tokenise, train, stop, resume, score and export: runs/demo/summary.json"
	@echo "make test        all tests that take seconds"
	@echo "make test-slow   the tests that take minutes"
	@echo "make test-slurm  the tests on a real SLURM cluster on this machine; as root, on Debian (installs packages)"
	@echo "make check       lint and types"
	@echo "make format      format the code"
	@echo "make bench       list the benchmarks"

$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[mpi,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m launchers.demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow and not gpu and not slurm" -n 2 --dist loadfile --durations=20

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --durations=20

test-slurm: $(STAMP)
	$(BIN)/python tests/slurm/slurm_cluster.py install
	$(BIN)/python -m pytest -m slurm --durations=20

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench:
	@echo "One script a claim; each says in its first lines what it measures and against what:"
	@for script in $$(ls benchmarks/*.py | grep -v benchmarks/study_); do printf '%s\n    ' "$$script"; sed -n '1s/^"""//p' "$$script"; done

clean:
	rm -rf $(VENV) runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
