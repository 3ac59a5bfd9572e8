# make quickstart   installs jaxkd into .venv and distils a detector on real pictures
# make test         installs what tests need and runs them
# make test-quick   the tests that a change of a line needs first: ops, losses, one detector, one step, flags
# make smoke        installs the wheel, alone and with each extra, and runs what README prints there
# make oldest       quick tests, commands and exports with the oldest versions that pyproject.toml admits
# make newest       the same with the newest; PYTHON= says which Python
# make notebooks    runs the notebooks at their full length
# make docs         builds the pages of docs/ into site/
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
EXTRAS ?= onnx tflite tensorboard wandb tpu

QUICK := $(addprefix tests/,ops nets detectors distill data evaluation weights loading export contracts)
FIRST := $(addprefix tests/,ops/test_anchors.py ops/test_boxes.py ops/test_box_mean.py ops/test_match.py ops/test_nms.py \
  ops/test_sample.py distill/test_task_adaptive.py distill/test_gated.py distill/test_mimic.py distill/test_decay.py \
  distill/test_matching_pursuit.py distill/test_prototype_space.py contracts/test_methods.py \
  contracts/test_detectors.py detectors/test_faster_rcnn.py train/test_step.py test_config.py test_config_fields.py \
  test_ranges.py test_rules.py test_signatures.py cli/test_main.py)
ONE := not retinanet and not larger_teacher and not gradient_ratios and not parts

.PHONY: quickstart test test-quick smoke oldest newest notebooks lint docs clean

quickstart: .venv/.core
	$(BIN)/jaxkd quickstart

test: .venv/.test
	$(BIN)/python -m pytest -q $(WORKERS)

test-quick: .venv/.test
	$(BIN)/python -m pytest -q $(WORKERS) $(FIRST) -k '$(ONE)'

smoke:
	rm -rf .smoke
	$(PYTHON) -m venv .smoke/core
	.smoke/core/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir=.smoke .
	.smoke/core/bin/python -m pip install --quiet --disable-pip-version-check .smoke/*.whl
	$(PYTHON) tests/smoke.py .smoke/core/bin/python
	set -e; for extra in $(EXTRAS); do \
	  cp -al .smoke/core .smoke/$$extra; \
	  .smoke/$$extra/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls .smoke/*.whl)[$$extra]"; \
	  $(PYTHON) tests/smoke.py .smoke/$$extra/bin/python $$extra; \
	done

oldest newest:
	rm -rf .smoke/$@
	$(PYTHON) -m venv .smoke/$@
	.smoke/$@/bin/python -m pip install --quiet --disable-pip-version-check uv
	.smoke/$@/bin/uv pip install --quiet --python .smoke/$@/bin/python \
	  --resolution $(if $(filter oldest,$@),lowest-direct,highest) '.[test]'
	.smoke/$@/bin/uv pip list --python .smoke/$@/bin/python
	.smoke/$@/bin/python -m pytest -q $(WORKERS) $(QUICK)
	set -e; for extra in onnx tflite; do $(PYTHON) tests/smoke.py .smoke/$@/bin/python $$extra; done

notebooks: .venv/.test
	JAXKD_WHOLE_NOTEBOOKS=1 $(BIN)/python -m pytest -q tests/test_colabs.py -k from_top_to_bottom

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff check --quiet --isolated --select F821 tests
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: .venv/.core
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxkd needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv

.venv/.core: .venv/bin/python pyproject.toml
	$(PIP) --editable .
	@touch $@

.venv/.test: .venv/.core
	$(PIP) --editable '.[test]'
	@touch $@

.venv/.dev: .venv/.test
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .smoke
