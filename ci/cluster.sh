#!/usr/bin/env bash
# Tests of tables that are made on a cluster: builds with the feature `cluster` and runs what needs it.
#
#   ci/cluster.sh            # what the feature adds to the library and the command line, and tests/cluster
#   ci/cluster.sh night      # one test, as `cargo test` names it
#
#   CARGO_TARGET_DIR  where cargo builds (default $HOME/.cache/curec/target-cluster). Not where ci/test.sh builds: the feature
#                     brings DataFusion's default features, and half of the packages would be built anew at each change.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/curec/target-cluster}
export CUREC_HOME=${CUREC_HOME:-$HOME/.cache/curec/home}

if [ $# -gt 0 ]; then
    exec cargo test --profile ci --locked --features cluster --test cluster "$@"
fi
cargo clippy --profile ci --locked --features cluster --all-targets -- -D warnings
cargo test --profile ci --locked --features cluster --lib -- query:: generate:: night:: cli::
cargo test --profile ci --locked --features cluster --test cluster
cargo test --profile ci --locked --features cluster --test cli cluster
