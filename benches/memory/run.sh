#!/bin/bash
# Memory of a night over a large log: MovieLens-100k COPIES times (200: 20 million events, 188,600 users, 336,400 items),
# everything active, with `resources.memory_limit = LIMIT`. Prints seconds and rows by stage and the peak of resident
# memory of the whole run. A tiny random model answers the prompts; equal prompts of the copies are asked once.
#
#   benches/memory/run.sh FOLDER_WITH_INTERACTIONS_AND_ITEMS [COPIES=200] [LIMIT="2 GB"]
#
# CUREC_BIN names the binary (default: the build of the `ci` profile), PYTHON a Python with pyarrow; WORK (default: a new
# folder, removed at the end) keeps the replicated log between calls. Needs about 10 GB of disk at 200 copies.
set -euo pipefail
cd "$(dirname "$0")/../.."
source=$1 copies=${2:-200} limit=${3:-2 GB}
bin=${CUREC_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}/ci/curec}
if [ -z "${WORK:-}" ]; then
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
fi
input=$WORK/input-$copies
[ -e "$input/item.parquet" ] || "${PYTHON:-python3}" benches/memory/replicate.py "$source" "$input" "$copies"
rm -rf "$WORK/warehouse" "$WORK/spill"
mkdir -p "$WORK/spill"
cat > "$WORK/job.toml" <<JOB
name = "memory"
warehouse = "$WORK/warehouse"
[input]
interaction = "$input/interaction"
item = "$input/item.parquet"
[history]
user_active_days = 0
item_active_days = 0
[model]
generator = "tests/fixtures/models/tiny-qwen3"
encoder = "tests/fixtures/models/tiny-bert"
device = "cpu"
max_positions = 512
[sampling]
max_new_tokens = 2
[budget]
max_failed_fraction = 1.0
[resources]
memory_limit = "$limit"
spill_dir = "$WORK/spill"
JOB
touch "$WORK/running"
: > "$WORK/spilled"
while [ -e "$WORK/running" ]; do { du -sk "$WORK/spill" 2>/dev/null || true; } | cut -f1 >> "$WORK/spilled"; sleep 1; done &
code=0
"$bin" run "$WORK/job.toml" --interval-start 1998-04-22 --interval-end 1998-04-23 \
    > "$WORK/out" 2> "$WORK/err" || code=$?
rm -f "$WORK/running"
[ "$code" = 0 ] || { tail -30 "$WORK/err"; echo "exit code $code"; }
"${PYTHON:-python3}" - "$WORK" "$copies" "$limit" <<'PY'
import glob, json, re, sys
work, copies, limit = sys.argv[1:]
peak = 0
for name in glob.glob(f"{work}/warehouse/_runs/*/manifest.json"):
    manifest = json.load(open(name))
    peak = manifest["peak_memory"] or 0  # the kernel's high-water mark of the process
    for stage in manifest["stages"]:
        print(f"{stage['stage']:<16} {stage['seconds']:8.1f} s {stage['rows']:>12} rows")
spilled = max((int(w) for w in re.findall(r"^(\d+)", open(f"{work}/spilled").read(), re.M)), default=0)
print(f"{copies} copies, limit {limit}: peak {peak / 1e9:.2f} GB resident, at most {spilled / 1e6:.1f} GB on disk aside")
PY
exit "$code"
