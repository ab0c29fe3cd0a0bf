#!/usr/bin/env bash
# The checks that need a GPU: model parity and generation speed on `wgpu` (Vulkan). CI has no GPU; a person runs this.
#
#   ci/gpu.sh run                 # on a machine with a GPU and Rust: build, test, measure
#   ci/gpu.sh pack FOLDER         # without a GPU: build the programs and put them into FOLDER ...
#   ci/gpu.sh run FOLDER          # ... and run them on the GPU machine, in a clone, without Rust
#
#   CUREC_TEST_DEVICE  device of the parity tests and the bench (default wgpu; wgpu:1, cuda:0 with that feature)
#   CUREC_HOME         data and models (default $HOME/.cache/curec/home; `CUREC_HOME=... ci/fetch.sh` fills it)
#   CUREC_SHARED       the goldens (default ../shared)
#   CUREC_PROFILE      what is built: ci (default), or release for timings of what a user runs
#
# The GPU machine needs a Vulkan driver: `vulkaninfo --summary` must list the card. On NVIDIA containers set
# NVIDIA_DRIVER_CAPABILITIES=all, or libGLX_nvidia and its ICD file are missing. A list that shows only llvmpipe means
# that the software driver was found: the tests then pass, slowly, and say nothing about the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,11s/^# \{0,1\}//p' ci/gpu.sh >&2
    exit 2
}

# build FOLDER: the library's tests, of which parity is a part, and the generation bench's program, without running them
build() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}
    mkdir -p "$1"
    local target kind
    for target in test:library bench:generation; do
        kind=${target%%:*}
        cargo test --profile "${CUREC_PROFILE:-ci}" --locked --no-run "--$kind" "${target#*:}" --message-format=json |
            python3 -c '
import json, shutil, sys
name, folder = sys.argv[1:]
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == name:
        shutil.copy2(message["executable"], f"{folder}/{name}")
        break
else:
    sys.exit(f"gpu: cargo made no program for {name}")
' "${target#*:}" "$1"
    done
}

run() {
    export CUREC_TEST_DEVICE=${CUREC_TEST_DEVICE:-wgpu}
    export CUREC_DEVICE=$CUREC_TEST_DEVICE
    export CUREC_HOME=${CUREC_HOME:-$HOME/.cache/curec/home}
    export CUREC_SHARED=${CUREC_SHARED:-$(cd .. && pwd)/shared}
    # Programs that cargo does not start must be told where the fixtures are.
    export CARGO_MANIFEST_DIR=$PWD
    [ -f "$CUREC_HOME/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" ] ||
        echo "gpu: no SmolLM2 in $CUREC_HOME; run CUREC_HOME=$CUREC_HOME ci/fetch.sh first, or only the tiny models are tested" >&2
    command -v vulkaninfo >/dev/null && vulkaninfo --summary 2>/dev/null | grep -E 'deviceName|driverInfo' >&2
    "$1/library" parity_model --nocapture --test-threads=1
    "$1/generation" --bench
}

case "${1:-}" in
pack)
    [ $# -eq 2 ] || usage
    build "$2"
    ;;
run)
    folder=${2:-}
    if [ -z "$folder" ]; then
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        build "$folder"
    fi
    run "$folder"
    ;;
*) usage ;;
esac
