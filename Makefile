PYTHON ?= python3
INSTALLED = .venv/.installed

$(INSTALLED): setup.cfg pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)

# Both stages on the embedded default, base and safe model on the held-out split: a table and report.html.
demo: $(INSTALLED)
	.venv/bin/python -m safevlm_hf.demo

test: $(INSTALLED)
	.venv/bin/python -m pytest -q -m "not slow"

test-all: $(INSTALLED)
	.venv/bin/python -m pytest -q

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.PHONY: demo test test-all lint
