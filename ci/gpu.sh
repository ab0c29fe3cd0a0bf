#!/usr/bin/env bash
# What needs a GPU: parity with transformers, speed and memory on `wgpu` (Vulkan), in one run of at most ten minutes. CI has no GPU.
#
#   ci/gpu.sh run                 # on a machine with a GPU and Rust: build and measure
#   ci/gpu.sh pack FOLDER         # without a GPU: the program and the model as files of at most CUREC_PART_MB in FOLDER ...
#   ci/gpu.sh run FOLDER          # ... and the run on the GPU machine, in a clone, without Rust
#   ci/gpu.sh run --tiny [FOLDER] # tiny models in a minute or two: does everything work, on a software driver too?
#
#   OUT              where gpu.md, gpu.json, gpu.jsonl and gpu.log are put (default target/gpu)
#   CUREC_DEVICE     the device (default wgpu; wgpu:1; cuda:0 with that feature)
#   CUREC_SECONDS    time of the whole run (default 570); steps for which there is none left are left out, and the page says so
#   CUREC_PART_MB    size of a file in FOLDER (default 64): a machine may take them one after the other
#   CUREC_HOME       models (default $HOME/.cache/curec/home; `CUREC_HOME=... ci/fetch.sh` fills it)
#   CUREC_SHARED     the goldens (default ../shared)
#   CUREC_PROFILE    what is built: ci (default), or release for timings of what a user runs
#   CUREC_FEATURES   features beside the default ones, such as cuda
#
# FOLDER has program.00 ... and, where SmolLM2 is in CUREC_HOME, model.00 ... Without the latter its shape with random weights is
# measured and only tiny models are compared. The GPU machine needs bash, coreutils, gzip, tar and a Vulkan driver with its loader
# (libvulkan1): `vulkaninfo --summary` must list the card. On NVIDIA containers set NVIDIA_DRIVER_CAPABILITIES=all, or libGLX_nvidia and
# its ICD file are missing. Where only llvmpipe is found, the page says that it is software. The page needs Python; transformers on
# the same card is measured where Python has it, with torch.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,17s/^# \{0,1\}//p' ci/gpu.sh >&2
    exit 2
}

say() { printf 'gpu: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# build FOLDER: puts the program, SmolLM2 and its goldens into FOLDER as far as they are here, and the commit.
build() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}
    local home=${CUREC_HOME:-$HOME/.cache/curec/home} shared=${CUREC_SHARED:-../shared}
    local model=$home/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    mkdir -p "$1"
    cargo test --profile "${CUREC_PROFILE:-ci}" --locked --no-run --bench gpu --features "${CUREC_FEATURES:-}" \
        --message-format=json |
        python3 -c '
import json, shutil, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "gpu":
        shutil.copy2(message["executable"], sys.argv[1])
        break
else:
    sys.exit("gpu: cargo made no program")
' "$1/gpu"
    git describe --always --dirty >"$1/commit" 2>/dev/null || echo 'no commit' >"$1/commit"
    if [ -f "$model" ] && [ -f "$shared/goldens/smollm2_goldens.json" ]; then
        ln -sf "$(realpath "$model")" "$1/model.gguf"
        cp "$shared"/goldens/smollm2_{goldens.json,logits.safetensors} "$1/"
    else
        say "no SmolLM2 in $home or no goldens in $shared: random weights of its shape are measured, and only tiny models compared"
    fi
}

# pack FOLDER: what build makes, as parts.
pack() {
    local part=${CUREC_PART_MB:-64}M
    build "$stage"
    mkdir -p "$1"
    rm -f "$1"/program.?? "$1"/model.??
    strip "$stage/gpu" 2>/dev/null || say 'no strip here: the program keeps its symbols'
    if [ -e "$stage/model.gguf" ]; then
        split -b "$part" -d "$stage/model.gguf" "$1/model."
        (cd "$stage" && sha256sum model.gguf >model.sha256)
    fi
    tar -C "$stage" --exclude model.gguf -c . | gzip -9 | split -b "$part" -d - "$1/program."
    du -h "$1"/program.?? "$1"/model.?? 2>/dev/null || du -h "$1"/program.??
}

# unpack FOLDER: the reverse, into the stage.
unpack() {
    [ -f "$1/program.00" ] || fail "$1 has no program.00: ci/gpu.sh pack makes it"
    cat "$1"/program.?? | tar -C "$stage" -xz || fail "$1 lacks a part of the program, or it is damaged"
    if compgen -G "$1/model.??" >/dev/null; then
        cat "$1"/model.?? >"$stage/model.gguf"
        (cd "$stage" && sha256sum --status -c model.sha256) || fail "$1 lacks a part of the model, or it is damaged"
    fi
}

# skipped STEP WHY [FAILED]: a line for the page; FAILED is true where the step was begun. No text has what JSON would escape.
skipped() {
    say "$1: $2"
    printf '{"figure":"skipped","step":"%s","why":"%s","failed":%s}\n' "$1" "$2" "${3:-false}" >>"$lines"
}

# step NAME SECONDS COMMAND...: adds what a command prints to the figures. It gets SECONDS at most, and is left out where they would
# overrun the run's time. A step that fails does not end the run.
step() {
    local name=$1 limit=$2 left=$((seconds - SECONDS)) started=$SECONDS code=0
    shift 2
    if [ "$left" -lt "$limit" ]; then
        skipped "$name" "it may take $limit s, and $left of $seconds s are left"
        return
    fi
    printf '== %s\n' "$name" >>"$log"
    timeout -k 5 "$limit" "$@" >"$stage/printed" 2>>"$log" || code=$?
    # A process that was killed may leave a line without an end.
    sed -e '$a\' "$stage/printed" | tee -a "$lines"
    case $code in
    0) say "$name: $((SECONDS - started)) s" ;;
    124 | 137) skipped "$name" "not done after $limit s" true ;;
    *)
        tail -n 3 "$log" >&2
        skipped "$name" "failed with exit code $code, gpu.log says why" true
        ;;
    esac
}

# speed NAME MODEL PROMPT NEW SECONDS ROWS...: a step for each number of rows; loading and the engine come on top of SECONDS.
speed() {
    local name=$1 model=$2 prompt=$3 new=$4 time=$5 rows
    shift 5
    for rows in "$@"; do
        step "$name x $rows" $((2 * time + 20)) "$stage/gpu" speed "$name" "$model" "$rows" "$prompt" "$new" "$time"
    done
}

# peer NAME MODEL PROMPT NEW SECONDS ROWS,ROWS...: transformers on random weights of the same shape.
peer() {
    mkdir -p "$stage/config"
    if ! "$stage/gpu" config "$2" >"$stage/config/config.json" 2>>"$log"; then
        skipped "transformers $1" 'the program gave no configuration' true
        return
    fi
    step "transformers $1" $((2 * $5 + 30)) python3 benches/peers/hf_generate.py "$stage/config" --random --device auto --dtype auto \
        --name "$1" --prompt "$3" --new "$4" --seconds "$5" --threads "$(nproc)" --batch "$6"
}

run() {
    export CUREC_DEVICE=${CUREC_DEVICE:-wgpu}
    local out=${OUT:-target/gpu} has_peer=0 small=shape:135M code=0
    mkdir -p "$out"
    lines=$out/gpu.jsonl
    log=$out/gpu.log
    : >"$lines"
    : >"$log"
    if command -v vulkaninfo >/dev/null; then vulkaninfo --summary 2>/dev/null | grep -E 'deviceName|driverInfo' >>"$log" || true; fi
    if command -v nvidia-smi >/dev/null; then nvidia-smi >>"$log" 2>&1 || true; fi
    if python3 -c 'import transformers, torch' >>"$log" 2>&1; then
        has_peer=1
    else
        skipped transformers 'Python here has none, or no torch'
    fi

    # The least costly and most telling steps come first.
    if [ "$tiny" = 1 ]; then
        step device 60 "$stage/gpu" device 16
        step 'parity of tiny models' 120 "$stage/gpu" parity
        speed tiny-llama tests/fixtures/models/tiny-llama.gguf 16 8 10 1 4
        speed tiny shape:tiny 16 8 10 1 4
        if [ "$has_peer" = 1 ]; then peer tiny shape:tiny 16 8 10 1,4; fi
    else
        step device 60 "$stage/gpu" device
        step 'parity of tiny models' 120 "$stage/gpu" parity
        if [ -e "$stage/model.gguf" ]; then
            small=$stage/model.gguf
            step 'parity of SmolLM2-135M' 90 "$stage/gpu" parity "$stage/model.gguf" "$stage"
        else
            skipped 'parity of SmolLM2-135M' 'the model is not here'
        fi
        speed 135M "$small" 128 64 15 1 32 128 512
        if [ "$has_peer" = 1 ]; then peer 135M "$small" 128 64 30 1,32,128,512; fi
        speed 1.5B shape:1.5B 128 64 30 1 32 128 512
        if [ "$has_peer" = 1 ]; then peer 1.5B shape:1.5B 128 64 45 1,32,128,512; fi
    fi

    if command -v python3 >/dev/null; then
        python3 ci/gpu.py "$lines" "$(cat "$stage/commit")" "$out" || code=1
        cat "$out/gpu.md"
    else
        say "no Python here: the figures are in $lines, and ci/gpu.py makes a page of them elsewhere"
    fi
    say "$SECONDS s; $out has the figures"
    return "$code"
}

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
tiny=0
command=${1:-}
[ $# -eq 0 ] || shift
if [ "$command" = run ] && [ "${1:-}" = --tiny ]; then
    tiny=1
    shift
fi
case $command:$# in
pack:1) pack "$1" ;;
run:0 | run:1)
    # Building is no part of the run's time.
    if [ $# -eq 0 ]; then build "$stage"; fi
    SECONDS=0
    seconds=${CUREC_SECONDS:-570}
    if [ $# -eq 1 ]; then unpack "$1"; fi
    run
    ;;
*) usage ;;
esac
