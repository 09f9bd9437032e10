set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / ".tools/bin" + ":" + env("PATH")
# What is built is found in target/, whatever the caller's environment says.
export CARGO_TARGET_DIR := justfile_directory() / "target"
# What every recipe selects, and tests then by an expression. Packages chosen by name, or without what
# only tests need, would have other features, and Wasmtime and all that is above tokio be compiled again.
everything := "--release --locked --workspace"

# What can be done here
[private]
default:
    @just --list --unsorted

# Install what building and testing need and this machine has not
setup:
    @.config/setup

# Build target/release/baton and both builds of every function in target/functions/
build: setup functions
    cargo build {{everything}} --all-targets

# Build the binary to install, target/dist/baton, optimised by a profile of its own work; as root, takes most of an hour
dist: build
    @.config/dist

# Build the functions only
functions:
    @.config/functions

# See a request answered by Wasm, then by a native sandbox, and its trace
demo: build
    @tests/demo

# Look at Baton in a tracing backend, with traffic, until Ctrl-C or for so many seconds
observe SECONDS="": build
    @tests/observe {{SECONDS}}

# Serve demo.toml until Ctrl-C
serve: build
    target/release/baton serve --config demo.toml

# Measure everything of a name (`just bench` lists them), side by side with what it is compared with
bench *ARGUMENTS: build
    @target/release/baton-bench bench {{ARGUMENTS}}

# What an instance costs inside the host (instantiate, call and drop, without HTTP), and counting a request
bench-inside: functions
    cargo bench --locked --workspace --bench instance --bench counting

# The tables and figures of the papers, measured again into docs/measurements.md; under 15 minutes,
# with `full` as many repeats as the papers made, in some hundred minutes
paper EFFORT="reduced": build
    target/release/baton-bench paper {{ if EFFORT == "full" { "--full" } else { "" } }}
    target/release/baton-bench report target/bench/paper.json --output target/bench/paper.html

# Everything that CI runs, the quick checks first
test: setup format deny functions lint documentation
    cargo build {{everything}} --all-targets
    cargo nextest run {{everything}}
    cargo test {{everything}} --doc
    @# Tests run side by side, so none of them removes the parent of their cgroups; rmdir takes it only when empty.
    @rmdir /sys/fs/cgroup/baton /sys/fs/cgroup/*/baton 2>/dev/null || true

# The pool's slow tests (a thousand sandboxes, twice); not part of CI
test-pool-slow: setup
    cargo nextest run {{everything}} --run-ignored only --no-capture -E 'package(baton-pool) & binary(daemon)'

# The end-to-end tests with the binary to install, which `just dist` has built; not part of CI
test-dist: build
    BATON={{justfile_directory()}}/target/dist/baton cargo nextest run {{everything}} -E 'package(baton-tests)'

# A minute in which a random sandbox is killed every 50 ms under 32 connections; not part of CI
test-storm: build
    cargo nextest run {{everything}} --run-ignored only --no-capture -E 'binary(e2e) & test(storm)'

# A gibibyte each way through both tiers, in constant memory; not part of CI
test-http-slow: build
    cargo nextest run {{everything}} --run-ignored only -E 'binary(e2e) & test(http::)'

# Which of Wasmtime's own test programs Baton serves, beside `wasmtime serve`; not part of CI
conformance *SOURCES: build
    @tests/conformance {{SOURCES}}

# Serve Debian's Python and nginx from their packages; not part of CI, since it fetches them
test-natives: build
    @tests/natives

# Serve both tiers on cgroup v2, frozen, thawed and from a root, in a small emulated machine; not part of CI
test-cgroup2: build
    @tests/cgroup2

# Write the tables of docs/telemetry.md anew, from the code
tables:
    BATON_WRITE_TABLES=1 cargo nextest run {{everything}} -E 'package(baton-otel) & binary(documentation)'

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
    cargo clippy {{everything}} --all-targets --all-features -- --deny warnings
    @[[ $(.config/wasm --which) != rustup ]] || just lint-components

# The same for what only a component build compiles; Debian's compiler has no clippy
[private]
lint-components:
    cargo clippy --profile function --locked --target wasm32-wasip2 --target-dir target/guest \
        --package baton-function --package raw --package third --package misbehaving --all-features -- --deny warnings

# The documentation of every package, warnings being errors
documentation:
    RUSTDOCFLAGS="--deny warnings" cargo doc --release --locked --workspace --no-deps
