# The commands of the project. Each installs what it needs, says so, and is quick when nothing is missing.

SHELL := /bin/bash
PARTS := .parts
PYTHON := /usr/bin/python3
FUZZ_SECONDS ?= 600
BENCH ?= replacement memory fleet answers fairness catalog pinning word xds

.PHONY: help parts parts-test parts-bench projects build demo test test-docker bench fuzz lint clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

parts: ## install what the demo needs
	@demo/install.sh demo

parts-test: ## install what the tests need
	@demo/install.sh test

parts-bench: ## install what the benches need
	@demo/install.sh bench

projects: parts ## make the demo's projects
	@$(PYTHON) demo/projects/make.py $(PARTS)/projects

build: parts ## build the two daemons
	@cargo build --workspace --bins

demo: projects build ## run a whole stack on loopback with six projects, until Ctrl-C
	@demo/run.sh

test: parts-test ## check everything: format, lints, Python worker, all Rust tests with real QGIS and Envoy
	@$(PYTHON) demo/projects/make.py $(PARTS)/projects
	@$(PYTHON) demo/projects/make.py --tests $(PARTS)/test-projects
	diff <(demo/install.sh list) <(grep '^|' docs/installs.md)
	cargo fmt --all --check
	cd worker-agent/python && $(PYTHON) -B -m unittest discover -s tests
	cargo clippy --workspace --all-targets -- -D warnings
	# Together: by themselves the programs would be built with fewer features of their libraries, which would be compiled twice.
	cargo build --workspace --bins --tests
	cargo nextest run --workspace

test-docker: ## build the images and run compose.yaml with a Docker Engine of the test's own (needs root; not part of `test`)
	@tests/docker/run.sh

bench: parts-bench ## print figures side by side with ratios (docs/benchmarks.md); one alone: make bench BENCH=fleet
	@$(PYTHON) demo/projects/make.py $(PARTS)/projects
	@$(PYTHON) demo/projects/make.py --bench $(PARTS)/bench-projects
	cargo build --workspace --bins --benches
	cargo bench --workspace --profile dev $(addprefix --bench ,$(BENCH))

fuzz: ## fuzz what parses bytes from outside, FUZZ_SECONDS each
	fuzz/run.sh frame $(FUZZ_SECONDS)
	fuzz/run.sh request $(FUZZ_SECONDS)

lint: ## format, lints, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: dependencies were not checked (cargo install --locked cargo-deny)"; fi

clean: ## remove what was built and fetched
	cargo clean
	rm -rf $(PARTS)
