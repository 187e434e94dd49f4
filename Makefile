# Two commands on a fresh machine: `make up` and `make test`. What they need is brought by tools/setup, which runs on
# the system's Python and explains itself when something is missing.

PYTHON ?= python3
STACK  ?= dev
SETUP  := $(PYTHON) -m tools.setup
RUN    := $(SETUP) run

.DEFAULT_GOAL := help
.PHONY: help setup up preview output destroy test check format bench chaos truth rig-up rig-down env lock clean

help:            ## these lines
	@sed -n 's/^\([a-z-]*\): *[^#]*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup:           ## .venv, the Pulumi engine and the training environments; does only what is missing
	@$(SETUP) all

up: setup        ## set-up, then trains the jobs of Pulumi.yaml on this machine (stack: STACK=dev)
	@$(RUN) pulumi stack select --create $(STACK)
	@$(RUN) pulumi up --yes --stack $(STACK)

preview: setup   ## what `make up` would change, and which jobs would train again
	@$(RUN) pulumi stack select --create $(STACK)
	@$(RUN) pulumi preview --diff --stack $(STACK)

output:          ## the stack's outputs as JSON, nothing else on stdout
	@$(RUN) pulumi stack output --json --stack $(STACK)

destroy:         ## removes the stack's resources and ends what still runs; the runs' outputs stay
	@$(RUN) pulumi destroy --yes --stack $(STACK)

test:            ## set-up, checks, all tests; ARGS="tests/unit -k word" for fewer
	@$(SETUP) test -- $(ARGS)

check:           ## formatting, lint, strict types, import contracts
	@$(SETUP) check

format:          ## mends formatting and what lint can mend
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

bench: setup     ## benchmarks: a table, and benchmarks/results/latest.json
	@$(RUN) python -m benchmarks $(ARGS)

chaos: setup     ## N=25 random kills over a stack of ten jobs, SEED=… for the same again; benchmarks/results/chaos.json
	@$(RUN) python -m tests.chaos --kills $(or $(N),25) --seed "$(SEED)"

truth: setup     ## N=200 random edits: does `pulumi up` do what the preview says? SEED=…; benchmarks/results/truth.json
	@$(RUN) python -m tests.truth --edits $(or $(N),200) --seed "$(SEED)"

rig-up: setup    ## a private Kubernetes on this machine, as tests have it: eval "$$(make -s rig-up ARGS=--node)"
	@$(RUN) python -m tests.rig up $(ARGS)

rig-down:        ## ends it, and removes all that it left
	@$(RUN) python -m tests.rig down

env:             ## variables for your shell: eval "$$(make -s env)"
	@$(SETUP) env

lock:            ## compiles requirements/dev.txt anew from pyproject.toml
	@$(RUN) uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes --quiet \
		--no-header --no-emit-index-url --no-emit-find-links --output-file requirements/dev.txt

clean:           ## removes .venv and the tools' caches from this folder; the stack's state and the shared cache stay
	@$(SETUP) clean
