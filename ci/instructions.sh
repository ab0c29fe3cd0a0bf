#!/usr/bin/env bash
# Counts the instructions of the CPU kernels (src/kernels/) with Valgrind's callgrind and compares them with
# benches/instructions/counts.tsv: a kernel that takes a tenth more than was recorded fails, without a clock, on a busy machine as on a
# quiet one. ci/instructions.py tells what is compared, benches/instructions/src/main.rs what runs.
#
#   ci/instructions.sh --install   # only whether it can run here; exit 1 with a reason where it cannot
#   ci/instructions.sh             # builds the workloads and counts all of them: a minute, half of it once they are built
#   ci/instructions.sh NAME...     # these alone
#   ci/instructions.sh --record    # counts all and writes the table anew: after a change that is meant, with another toolchain
#
#   CUREC_OFFLINE=1  downloads nothing
#
# Counts are those of AVX2, since Valgrind knows no AVX-512; the other instruction sets share all but the register tiles and the width
# of a panel. They are those of the toolchain of rust-toolchain.toml: of another compiler they would tell nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
crate=benches/instructions
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}/instructions

install() {
    local feature wanted found
    if ! command -v valgrind >/dev/null; then echo 'no Valgrind (Debian: apt-get install valgrind)'; return 1; fi
    for feature in avx2 fma f16c; do
        if ! grep -qw "$feature" /proc/cpuinfo; then echo "this processor has no ${feature^^}"; return 1; fi
    done
    wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    if [ "$found" != "$wanted" ]; then echo "the counts are those of Rust $wanted, and this is $found"; return 1; fi
}

install
if [ "${1:-}" = --install ]; then exit; fi

compare=()
if [ "${1:-}" = --record ]; then
    compare=(--record)
    shift
elif [ $# -gt 0 ]; then
    compare=(--some)
fi

offline=()
if [ "${CUREC_OFFLINE:-0}" = 1 ]; then offline=(--offline); fi
# Whatever the caller compiles for: the count is that of code which runs everywhere and asks the processor.
unset CARGO_ENCODED_RUSTFLAGS
RUSTFLAGS='-C target-cpu=x86-64' cargo build --quiet --release --locked "${offline[@]}" --manifest-path "$crate/Cargo.toml"
program=$CARGO_TARGET_DIR/release/instructions

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ $# -eq 0 ]; then
    names=$("$program" --list)
    # Names hold no blanks.
    # shellcheck disable=SC2086
    set -- $names
fi
for name in "$@"; do
    valgrind --quiet --tool=callgrind --toggle-collect=curec_counted --compress-strings=no --compress-pos=no \
        --callgrind-out-file="$scratch/$name.out" "$program" "$name" >"$scratch/log" 2>&1 ||
        { tail -n 5 "$scratch/log"; echo "instructions: $name could not be counted"; exit 1; }
done
python3 ci/instructions.py "${compare[@]}" "$crate/counts.tsv" "$scratch"
