# `make demo` and `make test` set themselves up; they need Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
RUN ?= saved_models/scenes_demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Bits and tolerances are a CPU's.
ON_CPU := CUDA_VISIBLE_DEVICES=-1 JAX_PLATFORMS=cpu
# Without the cache, which two suites would write at once.
PYTEST := $(ON_CPU) $(BIN)/python -m pytest -q --durations=10 -p no:cacheprovider \
	-m "not slow"
# Makes before 4.0 cannot keep the suites' lines apart.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: help setup demo test test-tensorflow test-jax test-torch test-data \
	test-alone test-slow lint format check bench bench-metrics \
	bench-data clean

help:
	@echo "make demo    train, evaluate, predict and export on drawn scenes"
	@echo "make setup   .venv with what the tests need"
	@echo "make test    the whole suite on TensorFlow, JAX and torch"
	@echo "make test-slow  what takes minutes a test"
	@echo "make lint    ruff and mypy: format, rules, types   make format  mend them"
	@echo "make check   lint and test"
	@echo "make bench   time and memory beside peers: hours. A part of it:"
	@echo "             make bench ROWS=attention,training RUNS=3"
	@echo "make bench-data  reading data, beside albumentations: half an hour"

# Stamps: set up once, and again when what is needed changes.
$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing TensorFlow and what the demo needs into $(VENV) ..."
	@$(PIP) -c constraints.txt -e ".[tensorflow,export,viz]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing TensorFlow, JAX, torch and the test tools into $(VENV) ..."
	@$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/bench.stamp: $(VENV)/dev.stamp benchmarks/requirements.txt
	@echo "Installing the peers of the benchmarks into $(VENV) ..."
	@$(PIP) -c constraints.txt -r benchmarks/requirements.txt
	@touch $@

setup: $(VENV)/dev.stamp

demo: export KERAS_BACKEND = tensorflow
demo: $(VENV)/demo.stamp
	@echo "== 1/6 drawing scenes and training DANet-ResNet18 on them"
	@$(BIN)/keras-danet train training/scenes_danet_resnet18.py \
		--output $(RUN) --overwrite
	@echo "== 2/6 evaluating on scenes it never saw"
	@$(BIN)/keras-danet evaluate $(RUN)
	@echo "== 3/6 drawing overlays, and what attention does"
	@$(BIN)/keras-danet predict $(RUN) $(RUN)/scenes/val/*000[0-3].png \
		--output $(RUN)/pictures --sheet
	@$(BIN)/keras-danet explain $(RUN) $(RUN)/scenes/val/*000[0-1].png \
		--measure 20 --output $(RUN)/why --overwrite
	@echo "== 4/6 exporting to SavedModel and checking it"
	@$(BIN)/keras-danet export $(RUN) --format saved_model
	@echo "== 5/6 exporting to TFLite and checking it"
	@$(BIN)/keras-danet export $(RUN) --format tflite
	@echo "== 6/6 a model trained on real streets, on one that it never saw"
	@$(BIN)/keras-danet predict danet_resnet50_camvid keras_danet/street.jpg \
		--output $(RUN)/street --sheet
	@$(BIN)/keras-danet explain danet_resnet50_camvid keras_danet/street.jpg \
		--output $(RUN)/street/why --overwrite
	@echo
	@echo "Everything lies in $(RUN):"
	@echo "  model.keras    the best epoch's model      report.json  its IoU"
	@echo "  history.csv    the figures of every epoch  config.json  how"
	@echo "  pictures/      labels, overlays, sheets    scenes/      the data"
	@echo "  why/index.html   why it sees what it sees"
	@echo "  street/        what a model of real streets sees"
	@echo "  exports/       danet/1, tflite_..., each with its export.json"
	@echo "Try next:"
	@echo "  $(BIN)/keras-danet predict $(RUN) YOUR_PHOTO.jpg --output pictures"
	@echo "  $(BIN)/keras-danet train training/camvid_danet_resnet18.py --data CamVid"

# One process per backend: they cannot share one. Two of them run at a time,
# because most of a suite is tracing and compiling, on one core.
test: $(VENV)/dev.stamp
	@echo "Two suites at a time; each is shown when it is through."
	@$(MAKE) --no-print-directory --keep-going --jobs=2 $(SYNC) \
		test-tensorflow test-jax test-data test-torch test-alone

# Tiny networks are compiled for longer than they run, and many of them alike.
test-jax: export XLA_FLAGS ?= --xla_backend_optimization_level=0 \
	--xla_llvm_disable_expensive_passes=true
test-jax: export JAX_COMPILATION_CACHE_DIR ?= $(VENV)/jax-cache
test-jax: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

test-tensorflow test-jax test-torch: test-%: $(VENV)/dev.stamp
	@echo "== the suite on $*"
	@KERAS_BACKEND=$* $(PYTEST) --ignore=tests/data

# Data know no backend: their tests run once, where they are fastest.
test-data: $(VENV)/dev.stamp
	@echo "== data"
	@KERAS_BACKEND=torch $(PYTEST) tests/data

test-alone: $(VENV)/dev.stamp
	@echo "== without TensorFlow"
	@KERAS_BACKEND=torch $(ON_CPU) $(BIN)/python tests/without_tensorflow.py
	@KERAS_BACKEND=jax $(ON_CPU) $(BIN)/python tests/without_tensorflow.py

test-slow: $(VENV)/dev.stamp
	@KERAS_BACKEND=torch $(PYTEST) -m slow
	@for backend in tensorflow jax; do KERAS_BACKEND=$$backend \
		$(PYTEST) -m slow --ignore=tests/data || exit 1; done

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/dev.stamp
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check: lint test

# Time and memory beside peers, into benchmarks/RESULTS.md.
bench: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/speed.py $(if $(ROWS),--rows $(ROWS)) \
		$(if $(RUNS),--runs $(RUNS))

# One update of the metric beside argmax, on each backend.
bench-metrics: $(VENV)/dev.stamp
	@for backend in tensorflow jax torch; do \
		KERAS_BACKEND=$$backend $(BIN)/python benchmarks/metrics.py; \
	done

# Reading training data beside a torch DataLoader with albumentations.
bench-data: $(VENV)/bench.stamp
	@$(BIN)/python benchmarks/data.py $(if $(PARTS),--parts $(PARTS))

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
