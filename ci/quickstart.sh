#!/bin/sh
# From a fresh clone to reasons and features: fetch MovieLens-100k and two small models, build curec, import the logs,
# run one night, show what came out. Run it twice: the second time there is nothing to do.
#
#   ci/quickstart.sh
#
#   CUREC_HOME        where data, models and tables go (default .curec in the clone, git-ignored)
#   CUREC_BIN         an existing curec binary; nothing is built then
#   CUREC_PROFILE     release (default): what a user should run; ci: builds much faster, as development and CI do
#   CARGO_TARGET_DIR  where cargo builds (default $HOME/.cache/curec/target)
set -eu
cd "$(dirname "$0")/.."
CUREC_HOME=${CUREC_HOME:-.curec}
mkdir -p "$CUREC_HOME"
CUREC_HOME=$(cd "$CUREC_HOME" && pwd)
export CUREC_HOME
job=jobs/quickstart.toml

say() { printf '%s\n' "$*" >&2; }
begin() { started=$(date +%s); say "== $*"; }
finish() { say "   took $(($(date +%s) - started)) s"; }
need() {
    command -v "$1" >/dev/null 2>&1 && return
    say "quickstart: $1 was not found. $2"
    exit 2
}

need python3 "Install Python 3.9 or newer with pip (Debian: apt-get install python3 python3-pip)."
if [ -z "${CUREC_BIN:-}" ]; then
    need cargo "Install Rust 1.95 or newer (https://rustup.rs)."
    need cc "Install a C compiler, some dependencies need one (Debian: apt-get install build-essential)."
fi

begin "1/5 data and models into $CUREC_HOME"
ci/fetch.sh
finish

if [ -z "${CUREC_BIN:-}" ]; then
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}
    export CARGO_TARGET_DIR
    CUREC_PROFILE=${CUREC_PROFILE:-release}
    begin "2/5 build (long the first time, see README; target folder $CARGO_TARGET_DIR)"
    cargo build --profile "$CUREC_PROFILE" --locked
    CUREC_BIN=$CARGO_TARGET_DIR/$CUREC_PROFILE/curec
    finish
else
    say "== 2/5 build: skipped, using $CUREC_BIN"
fi

begin "3/5 import MovieLens-100k"
# The stamp keeps a second run from rewriting inputs that are the same; another binary or other data imports again.
synopses=jobs/quickstart/synopses.csv
stamp="$("$CUREC_BIN" --version) $(cksum <"$CUREC_HOME/data/ml-100k/.files.json") $(cksum <"$synopses")"
if [ -f "$CUREC_HOME/input/interaction.parquet" ] && [ "$(cat "$CUREC_HOME/.imported" 2>/dev/null || true)" = "$stamp" ]; then
    say "   already in $CUREC_HOME/input"
else
    "$CUREC_BIN" import movielens "$CUREC_HOME/data/ml-100k" --descriptions "$synopses" --out "$CUREC_HOME/input" >&2
    printf '%s\n' "$stamp" >"$CUREC_HOME/.imported"
fi
finish

begin "4/5 run $job for 1998-04-20"
# A person at a terminal gets tables; elsewhere the last line of standard output is a one-line JSON summary.
summary=
if [ -t 1 ]; then
    "$CUREC_BIN" run "$job" --interval-start 1998-04-20 --interval-end 1998-04-21
else
    output=$("$CUREC_BIN" run "$job" --interval-start 1998-04-20 --interval-end 1998-04-21)
    summary=$(printf '%s\n' "$output" | tail -n 1)
fi
finish

# Of films with a synopsis, drawn by the digests of their ids: neither the best nor the worst.
begin "5/5 five reasons"
"$CUREC_BIN" sql --job "$job" "
    select p.subject as film, r.reason
    from reason r
    join reason_score s on s.kind = r.kind and s.item_id = r.item_id and s.as_of = r.as_of
    join reason_prompt p on p.kind = r.kind and p.item_id = r.item_id and p.as_of = r.as_of
    where r.kind = 'item' and s.accepted and cardinality(p.content) > 0
    order by md5(r.item_id)
    limit 5"
finish

say ""
if [ -n "$summary" ]; then
    printf '%s\n' "$summary" | python3 -c '
import json, sys
try:
    summary = json.load(sys.stdin)
except ValueError:
    summary = {}
print("status    ", summary.get("status"))
' >&2
fi
say "report     $(ls -t "$CUREC_HOME"/warehouse/_runs/*/report.html 2>/dev/null | head -n 1)"
say "tables     $CUREC_HOME/warehouse/<table>/dt=1998-04-20/   (item_feature and user_feature are for the ranker)"
say "binary     $CUREC_BIN"
say ""
say "Try:"
say "  CUREC_HOME=$CUREC_HOME $CUREC_BIN sql --job $job \\"
say "    \"select kind, coalesce(refusal, 'accepted') as outcome, count(*) as n from reason_score group by 1, 2 order by n desc\""
if [ -n "$summary" ]; then
    printf '%s\n' "$summary"
fi
