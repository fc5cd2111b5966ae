# Everything a developer runs. `make help` lists it; `.ci/run` runs `lint` and `test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MINUTES ?= 10
SECS ?= 60
# Tools that `make` installs itself are here.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
# CI shows failures at once and again at the end, and is quiet about the rest.
NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: build
build: ## Build the optimised binary, target/release/pgherd
	cargo build --release --locked -p pgherd

.PHONY: demo
demo: ## Show the relay at work on throwaway servers; KEEP=1 leaves them running
	dev/provision/server >/dev/null
	cargo build --release --locked -p pgherd -p demo
	cargo run --release --locked -p demo -- $(if $(KEEP),--keep)

.PHONY: provision
provision: ## Fetch what the tests need: PostgreSQL 12 to 18, client programs, cargo-nextest
	dev/provision/all

.PHONY: test
test: provision ## Run all tests, against real servers of every major
	cargo nextest run --workspace --locked --profile $(NEXTEST_PROFILE)
	cargo test --workspace --locked --doc --quiet

.PHONY: lint
lint: ## Check format, clippy, dependencies, layers, file sizes and documentation
	dev/provision/tools deny
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked check --hide-inclusion-graph bans licenses sources
	cargo xtask layers
	cargo xtask sizes
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet

.PHONY: bench
bench: ## Run the benchmarks; docs/benchmarks.md says what they measure
	cargo bench --workspace --locked

.PHONY: soak
soak: provision ## Run the relay under random faults for MINUTES=10, then compare everything
	PGHERD_SOAK_MINUTES=$(MINUTES) cargo nextest run --workspace --locked --release --profile long \
	    --run-ignored ignored-only --no-tests pass -E 'test(/soak/)' --no-capture

.PHONY: fuzz
fuzz: ## Feed random bytes to every parser for SECS=60 each
	PGHERD_FUZZ_SECS=$(SECS) cargo nextest run --workspace --locked --release --profile long \
	    --no-tests pass -E 'test(/fuzz/)'

.PHONY: clean-cache
clean-cache: ## Remove the fetched servers and tools, and what killed tests left behind
	. dev/provision/common.sh && rm -rf "$$cache/postgresql" "$$cache/templates" "$$cache/apt"
	rm -rf $${TMPDIR:-/tmp}/pgherd-test-*
