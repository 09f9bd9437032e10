set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / ".tools/bin" + ":" + env("PATH")
# What is built is found in target/, whatever the caller's environment says.
export CARGO_TARGET_DIR := justfile_directory() / "target"

# What can be done here
[private]
default:
    @just --list --unsorted

# Install what building and testing need and this machine has not
setup:
    @.config/setup

# Build target/release/baton and both builds of every function in target/functions/
build: setup functions
    cargo build --release --locked --package baton

# Build the functions only
functions:
    @.config/functions

# See a request answered by Wasm, then by a native sandbox, and its trace
demo: build
    @tests/demo

# Look at Baton in a tracing backend, with traffic, until Ctrl-C
observe: build
    @tests/observe

# Serve demo.toml until Ctrl-C
serve: build
    target/release/baton serve --config demo.toml

# Measure everything of a name (`just bench` lists them), side by side with what it is compared with
bench *ARGUMENTS: build
    @cargo build --release --locked --quiet --package baton-bench
    @target/release/baton-bench bench {{ARGUMENTS}}

# The tables and figures of the papers, measured again into docs/measurements.md; under 15 minutes,
# with `full` as many repeats as the papers made
paper EFFORT="reduced": build
    @cargo build --release --locked --quiet --package baton-bench
    target/release/baton-bench paper {{ if EFFORT == "full" { "--full" } else { "" } }}
    target/release/baton-bench report target/bench/paper.json --output target/bench/paper.html

# Everything that CI runs, the quick checks first
test: setup format deny functions lint documentation
    @# All at once, so that dependencies are built for one set of features.
    cargo build --release --locked --workspace --all-targets
    cargo nextest run --release --locked --workspace
    cargo test --release --locked --workspace --doc
    @# Tests run side by side, so none of them removes the parent of their cgroups; rmdir takes it only when empty.
    @rmdir /sys/fs/cgroup/baton /sys/fs/cgroup/*/baton 2>/dev/null || true

# The pool's slow tests (a thousand sandboxes, twice) and its own timing; not part of CI
test-pool-slow: setup
    cargo nextest run --release --locked --package baton-pool --test daemon --run-ignored only --no-capture

# A minute in which a random sandbox is killed every 50 ms under 32 connections; not part of CI
test-storm: build
    cargo nextest run --release --locked --package baton-tests --test e2e storm --run-ignored only --no-capture

# A gibibyte each way through both tiers, in constant memory; not part of CI
test-http-slow: build
    cargo nextest run --release --locked --package baton-tests --test e2e --run-ignored only http::

# Serve both tiers on cgroup v2, in a small emulated machine; not part of CI
test-cgroup2: build
    @tests/cgroup2

# Write the tables of docs/telemetry.md anew, from the code
tables:
    BATON_WRITE_TABLES=1 cargo test --release --locked --package baton-otel --test documentation

# Is everything formatted?
format:
    cargo fmt --all --check

# Are all dependencies of allowed origin and licence?
deny:
    cargo deny --all-features --locked check --hide-inclusion-graph bans licenses sources

# Known vulnerabilities among the dependencies; needs the advisory database, so CI does not ask
advisories: setup
    cargo deny check advisories

# Warnings are errors
lint:
    cargo clippy --release --locked --workspace --all-targets --all-features -- --deny warnings
    @[[ $(.config/wasm --which) != rustup ]] || just lint-components

# The same for what only a component build compiles; Debian's compiler has no clippy
[private]
lint-components:
    cargo clippy --profile function --locked --target wasm32-wasip2 --target-dir target/guest \
        --package baton-function --package raw --package third --package misbehaving --all-features -- --deny warnings

# The documentation of every package, warnings being errors
documentation:
    RUSTDOCFLAGS="--deny warnings" cargo doc --release --locked --workspace --no-deps
