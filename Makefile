# Everything is installed into .venv from requirements.lock; nothing else on the machine is touched.
PYTHON ?= python3
UV := 0.13.8
BIN := .venv/bin
READY := .venv/.ready
# Two workers of one thread each keep two cores busier than one worker of two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
LONG := slow or cluster or browser or fuzz

.PHONY: setup demo test test-all lint bench lock clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	cp $(BIN)/uv .venv/uv-setup
	.venv/uv-setup pip sync --quiet --python $(BIN)/python requirements.lock
	.venv/uv-setup pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(READY)

demo: setup
	$(BIN)/robustdml demo --out demo

test: setup
	$(PYTEST) -m "not ($(LONG))"

test-all: setup
	$(PYTEST) -m "$(LONG)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.grid
	$(BIN)/python -m benchmarks.metrics --custom-knn --exact

# The lock names versions and digests, and no address.
lock: setup
	.venv/uv-setup pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-annotate --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf .venv demo results .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
