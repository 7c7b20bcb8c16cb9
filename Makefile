# What people type. `make help` lists it.
.PHONY: book help demo lab test explore fuzz races test-lab bench bench-traffic lint ground

LAB = $(or $(CARGO_TARGET_DIR),target)/debug/lab

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## Play the story on a real control plane; LAYOUT=in-place, or POLICY=1: a platform team's, or CLUSTERS=3: a change that rolls through three, or TRAFFIC=istio or gateway: with Flux, real requests and metrics
ifdef TRAFFIC
ifneq ($(filter-out primary-copy,$(LAYOUT)),)
	@echo "With TRAFFIC the demo plays layout primary-copy only: leave LAYOUT=$(LAYOUT) out, or TRAFFIC." >&2; exit 2
endif
	@cargo build --locked --package sidetrack --package lab
	@$(LAB) demo $(TRAFFIC)
else ifdef CLUSTERS
	@hack/demo-waves.sh
else
	@hack/demo.sh
endif

lab: ## A shell in a world with Flux, Istio, Gateway API, Prometheus and pods that are processes (root or user namespaces)
	@cargo build --locked --package sidetrack --package lab
	@$(LAB) up

test: ## Everything that needs no root: pure tests, and scenarios on a real control plane
	cargo run --quiet --locked --package ground -- build
	cargo test --locked --workspace --no-fail-fast

explore: ## Every order of a few deeds, crashes, refusals and delays on a small world; STATES=n looks at so many states a layout
	SIDETRACK_STATES=$(or $(STATES),1000000) cargo test --locked --release --test explore -- --nocapture --test-threads=1

fuzz: ## What strangers hand us (reviews, requests, templates, answers), SECONDS a target
	hack/fuzz.sh $(or $(SECONDS),60)

races: ## The race suite, then a random run; SEED=n plays one again, LONG=1 an hour of new ones with 30 applications
	cargo run --quiet --locked --package ground -- build
ifeq ($(SEED)$(LONG),)
	cargo test --locked --test races -- --nocapture
endif
	SIDETRACK_SEED=$(SEED) SIDETRACK_LONG=$(LONG) cargo test --locked --test random -- --nocapture

test-lab: ## Scenarios of real Flux and real requests, in that world; SCENARIO=part of a name for some of them
	cargo build --locked --package sidetrack
	cargo test --locked --package lab --test lab -- $(SCENARIO)

bench-traffic: ## Shares, delays and errors that clients see in releases; also written to target/bench-traffic.json
	@cargo build --locked --package sidetrack --package lab
	@$(LAB) bench

bench: ## The figures of the README, also written to target/bench.json
	cargo run --quiet --locked --package ground -- build
	cargo bench --locked --bench figures

book: ## The documents as a book, in target/book
	hack/book.sh

lint: ## Formatting, clippy with warnings denied, licences and bans of dependencies, the book without warnings
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --package lab --test lab -- -D warnings
	hack/deny.sh
	hack/book.sh

ground: ## Build the control plane's parts (minutes, once)
	cargo run --quiet --locked --package ground -- build
