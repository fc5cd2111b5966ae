# Everything a developer runs. `make help` lists it; `.ci/run` runs `lint` and `test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

SECS ?= 60
# Tools that `make` installs itself are here.
cargo_home := $(or $(CARGO_HOME),$(HOME)/.cargo)
export PATH := $(cargo_home)/bin:$(PATH)
# CI shows failures at once and again at the end, and is quiet about the rest.
NEXTEST_PROFILE := $(if $(CI),ci,default)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: build
build: ## Build the optimised binary, target/release/pgherd
	cargo build --release --locked -p pgherd

DIST := $(or $(CARGO_TARGET_DIR),target)/dist

.PHONY: deb
deb: build ## Make a Debian package, target/dist/pgherd_*.deb
	cargo xtask deb $(or $(CARGO_TARGET_DIR),target)/release/pgherd $(DIST)

HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: tarball
tarball: ## Make a tarball with a static binary, target/dist/pgherd-*.tar.gz
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked -p pgherd --target $(HOST)
	cargo xtask tarball $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/pgherd $(DIST)

.PHONY: demo
demo: ## Show the relay at work on throwaway servers; KEEP=1 leaves them running
	dev/provision/server >/dev/null
	cargo build --release --locked -p pgherd -p demo
	@# `cargo run -p demo` would build some crates again, with fewer features.
	$(or $(CARGO_TARGET_DIR),target)/release/demo $(if $(KEEP),--keep)

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
	if ls $(cargo_home)/advisory-dbs/*/crates >/dev/null 2>&1; \
	    then $(MAKE) --no-print-directory advisories OFFLINE=1; \
	    else echo 'advisories: no copy of the database here, see make advisories'; fi
	cargo xtask layers
	cargo xtask sizes
	dev/provision/packages systemd
	systemd-analyze security --offline=true --threshold=29 --no-pager \
	    packaging/systemd/pgherd-relay.service | tail -n 1
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet

.PHONY: advisories
advisories: ## Look for known vulnerabilities of dependencies; OFFLINE=1 in the copy that is there
	dev/provision/tools deny
	cargo deny $(if $(OFFLINE),--offline) --locked check --hide-inclusion-graph advisories

.PHONY: bench
bench: provision ## Run the benchmarks (BENCH="--quick --only commit"); see docs/benchmarks.md
	cargo run --release --locked -p bench -- $(BENCH)

.PHONY: test-big
test-big: provision ## Compare more than 1 GB of filtered WAL with pg_waldump, split 10,000 tables; takes minutes
	cargo nextest run --locked --release --profile long -p pgherd --test waldump --test split_hard \
	    --run-ignored only --no-capture

.PHONY: test-packages
test-packages: provision deb tarball ## Try out the package under systemd, lintian, and the static binary
	cargo nextest run --locked -p pgherd --test package --run-ignored all
	dev/provision/packages lintian
	lintian --allow-root --fail-on error,warning $(DIST)/pgherd_*.deb
	packaging/test/run systemd $(DIST)/pgherd_*.deb
	packaging/test/static $(DIST)/pgherd-*.tar.gz

.PHONY: site
site: ## Build the documentation as a site, target/site, and check its links
	dev/provision/tools mdbook
	mdbook build
	cargo xtask site target/site

.PHONY: soak
soak: provision ## Run the relay under random faults for MINUTES=10, then compare everything; SEED=n
	cargo build --locked --release -p pgherd -p soak
	cargo run --locked --release -q -p soak -- --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

.PHONY: soak-operate
soak-operate: provision ## Reload, renew certificates and switch the upstream for MINUTES=30 under load; SEED=n MAJOR=17
	cargo build --locked --release -p pgherd -p soak
	cargo run --locked --release -q -p soak -- operate --minutes $(or $(MINUTES),30) \
	    $(if $(SEED),--seed $(SEED)) $(if $(MAJOR),--major $(MAJOR))

.PHONY: switches
switches: provision ## Move the upstream SWITCHES=10 times under load, then compare everything
	PGHERD_SWITCHES=$(or $(SWITCHES),10) cargo nextest run --locked --profile long -p pgherd --test switches

.PHONY: fuzz
fuzz: ## Feed spoiled bytes to every parser for SECS=60 each
	PGHERD_FUZZ_SECS=$(SECS) cargo nextest run --locked --release --profile long -p wal -p pgproto -p scram \
	    -E 'binary(mutations) | binary(/^fuzz_/)'
	fuzz/run.sh wal_stream -max_total_time=$(SECS)

.PHONY: clean-cache
clean-cache: ## Remove the fetched servers and tools, and what killed tests left behind
	. dev/provision/common.sh && rm -rf "$$cache/postgresql" "$$cache/templates" "$$cache/apt"
	rm -rf $${TMPDIR:-/tmp}/pgherd-test-*
