#!/usr/bin/env bash
# Builds the pages of docs/ as a book with mdBook, and checks every link and anchor of what comes out (ci/book.py).
#
#   ci/book.sh --install   # only mdBook; exit 1 with a reason where it cannot be had
#   ci/book.sh             # the book into target/book
#
#   CUREC_MDBOOK     an mdbook to use instead of the one below
#   CUREC_OFFLINE=1  installs nothing
#
# mdBook is built once from its sources, without its server and its search, into $HOME/.cache/curec/mdbook: some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.5.4
home=$HOME/.cache/curec/mdbook
mdbook=${CUREC_MDBOOK:-$home/bin/mdbook}

install() {
    local found
    if found=$("$mdbook" --version 2>/dev/null) && { [ -n "${CUREC_MDBOOK:-}" ] || [ "$found" = "mdbook v$version" ]; }; then
        return
    fi
    if [ -n "${CUREC_MDBOOK:-}" ]; then echo "$CUREC_MDBOOK (CUREC_MDBOOK) does not run"; return 1; fi
    if [ "${CUREC_OFFLINE:-0}" = 1 ]; then echo 'no mdBook, and CUREC_OFFLINE=1'; return 1; fi
    local scratch
    scratch=$(mktemp -d)
    # Apart from curec's own build, whose folder may be locked.
    if CARGO_TARGET_DIR=$scratch/target cargo install mdbook --version "$version" --locked --no-default-features \
        --root "$home" --force >"$scratch/log" 2>&1; then
        rm -rf "$scratch"
    else
        tail -n 3 "$scratch/log"
        rm -rf "$scratch"
        echo 'mdBook could not be installed'
        return 1
    fi
}

install
if [ "${1:-}" = --install ]; then exit; fi

out=$PWD/target/book
rm -rf "$out"
"$mdbook" build docs --dest-dir "$out"
python3 ci/book.py --check "$out"
