# What people type. `make help` lists it.
.PHONY: help demo test races bench lint ground clean-ground

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## Play the story on a real control plane: a release, a rejected one, a reverted one
	@hack/demo.sh

test: ## Everything that needs no root: pure tests, and scenarios on a real control plane
	cargo run --quiet --locked --package ground -- build
	cargo test --locked --workspace

races: ## The race suite: a line a scenario, beside what a controller without guards does
	cargo run --quiet --locked --package ground -- build
	cargo test --locked --test races -- --nocapture

bench: ## The figures of the README, also written to target/bench.json
	cargo run --quiet --locked --package ground -- build
	cargo bench --locked --bench figures

lint: ## Formatting, clippy with warnings denied, licences and bans of dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	hack/deny.sh

ground: ## Build the control plane's parts (minutes, once)
	cargo run --quiet --locked --package ground -- build
