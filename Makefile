# Two commands set up everything: `make demo` and `make test`. Both create .venv first if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
REID_PHOTOS ?= ../shared/photos
REID_WEIGHTS ?= ../shared/weights
RECORDERS := $(wildcard benchmarks/record_*.py)
# Parts of other scripts, and the hour of kills.
NO_BENCHMARKS := $(RECORDERS) $(wildcard benchmarks/gpu_*.py) benchmarks/local_ray.py benchmarks/pretrain_tiny.py benchmarks/subjects.py benchmarks/victims.py benchmarks/killed_sweep.py benchmarks/kills.py
# Two threads in each of several processes on two cores wait for each other most of the time.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-real bench bench-long docs check audit clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# wildlife-datasets wants opencv-python, which replaces cv2 by a build that needs libGL: the headless one is put back.
$(VENV)/installed-wildlife: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,wildlife]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --force-reinstall opencv-python-headless
	touch $@

demo: $(VENV)/installed
	$(BIN)/python sweeps/metric.py --data synthetic --out runs/demo --trials 6 --concurrent 2 --confirm 1 --confirm-runs 2

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-real: $(VENV)/installed-wildlife
	REID_PHOTOS=$(REID_PHOTOS) REID_WEIGHTS=$(REID_WEIGHTS) $(BIN)/python -m pytest -m 'realdata or slow'

bench: $(VENV)/installed
	set -e; for script in $(filter-out $(NO_BENCHMARKS),$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; REID_PHOTOS=$(REID_PHOTOS) $(BIN)/python $$script; done

# The thirty kills, and what `make bench` replays: two hours.
bench-long: $(VENV)/installed
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/record_shortlists.py --data $(REID_PHOTOS) --weights $(REID_WEIGHTS)/mobilenetv2_100.safetensors
	$(BIN)/python benchmarks/record_variants.py --data $(REID_PHOTOS) --weights $(REID_WEIGHTS)/mobilenetv2_100.safetensors

# What is generated of docs/: the reference of the configuration, and the picture of the README.
docs: $(VENV)/installed
	$(BIN)/python docs/make_configuration.py
	$(BIN)/python docs/draw_overview.py

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of the pinned versions; asks PyPI's database over the network.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) .venv-audit runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache
