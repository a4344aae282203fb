# `make demo` and `make test` do all the set-up: they need Python 3.11 or newer and a package index, and no GPU.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= auto
# Of `make gpu`, which installs nothing: the machine's own Python, where results go, and which parts are run.
GPU_PYTHON ?= python3
OUT ?= build/gpu
PARTS ?= A

.DEFAULT_GOAL := help
.PHONY: demo test lint bench fusion-report cost-report zoo lint-report pictures gpu-pack gpu gpu-report conformance corpus operators fuzz clean help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: $(STAMP)  ## compile a trained network and run its kernels on the test images
	@$(BIN)/python examples/digits/demo.py

test: lint  ## everything that can be tested without a GPU
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

lint: $(STAMP)  ## formatting, style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(STAMP)  ## the figures of the README's benchmark section
	$(BIN)/python -m bench.bench $(ARGS)

fusion-report: $(STAMP)  ## launches and bytes, unfused and fused, beside their targets
	$(BIN)/python -m bench.fusion_report $(ARGS)

cost-report: $(STAMP)  ## predicted times beside measured ones, where any are recorded
	$(BIN)/python -m bench.cost_model $(ARGS)

zoo: $(STAMP)  ## every network of the zoo exported and verified, and docs/zoo.md (an hour on one core)
	@$(BIN)/python -m bench.zoo_report $(ARGS)

lint-report: $(STAMP)  ## checks of the compiled kernels of nine networks, and docs/kernel-lint.md
	@$(BIN)/python -m bench.lint_report $(ARGS)

pictures: $(STAMP)  ## the README's pictures of what each rule is worth
	$(BIN)/convc ablate zoo:googlenet --target sm_90 --png docs/pictures/googlenet

gpu-pack: $(STAMP)  ## compile everything that `make gpu` needs, into build/gpu_pack, without a GPU
	$(BIN)/python -m bench.gpu pack $(ARGS)

gpu:  ## everything that needs a GPU: make gpu OUT=build/gpu PARTS=A (docs/gpu.md)
	$(GPU_PYTHON) -m bench.gpu run --out $(OUT) --parts $(PARTS) $(foreach folder,$(FROM),--from $(folder)) $(ARGS)

gpu-report: $(STAMP)  ## tables and plots of what `make gpu` measured, from bench/results/gpu
	$(BIN)/python -m bench.gpu report --readme $(ARGS)

conformance: $(STAMP)  ## the cases of onnx.backend.test, counted by tier
	$(BIN)/python tests/conformance/conformance.py $(ARGS)

corpus: $(STAMP)  ## exported models of shared/models beside the checkout: import, compile, verify; goes on where it was
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/models/run_corpus.py $(ARGS)

operators: $(STAMP)  ## docs/operators.md from the operators' definitions
	$(BIN)/python docs/operators.py > docs/operators.md.new && mv docs/operators.md.new docs/operators.md

fuzz: $(STAMP)  ## 2,000 random networks under random rules, policies and numeric modes
	$(BIN)/python tests/fuzz.py $(ARGS)

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installed again when pyproject.toml changes; the sources are used where they are.
$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit("convc needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
