#!/bin/sh
# Item reasons of several writers for the same items, side by side: how specific they are, and which a judge prefers.
#
#   benches/reasons/run.sh ITEMS OUT ARM...
#
#   ITEMS   a Parquet file of items with descriptions, as the input `item` (directors and actors, where it has them, are masked)
#   OUT     a folder; an arm that is there already is not asked again, so a run that was killed goes on: another OUT for
#           another adapter or setting
#   ARM     one or more of
#             adapter=FOLDER     the adapter in FOLDER, prompts aligned-item
#             titles=FOLDER      the same without descriptions: what it wrote before it was shown any
#             base               the model as it comes, prompt jobs/templates/film-item.j2
#             base-content       the model as it comes, the built-in prompt with descriptions
#           each as NAME:ARM, for example new:adapter=models/curec-smollm2-135m
#
#   CUREC_BIN    the binary        CUREC_HOME  models and data as ci/fetch.sh puts them
#   PYTHON       with numpy and pyarrow (default python3)
#   COPIED       words of a description in a row that an adapter may repeat (default 5, as the quick start; 0: all)
#   ATTEMPTS     how often an arm is asked until an answer passes the checks (default 3, as the quick start)
#   ASKED, POOL  items asked and items in the pool (default 300 and 1000); SEED (default 0)
set -eu
cd "$(dirname "$0")/../.."
items=$1 out=$2
shift 2
: "${CUREC_BIN:?the curec binary}" "${CUREC_HOME:?models and data}"
PYTHON=${PYTHON:-python3}
mkdir -p "$out"
[ -f "$out/pool.parquet" ] || "$PYTHON" benches/reasons/measure.py prepare --items "$items" --out "$out" \
    --asked "${ASKED:-300}" --pool "${POOL:-1000}" --seed "${SEED:-0}" --without jobs/quickstart/synopses.csv
[ -f "$out/titles.parquet" ] || "$PYTHON" benches/reasons/measure.py inputs --out "$out"

files=
for arm in "$@"; do
    name=${arm%%:*} kind=${arm#*:}
    asked=$out/item.parquet adapter= prompt=item tokens=48 penalty=1.1 copied=0
    case $kind in
    adapter=*) adapter=${kind#*=} prompt=aligned-item tokens=112 penalty=1.0 copied=${COPIED:-5} ;;
    titles=*) adapter=${kind#*=} prompt=aligned-item tokens=112 penalty=1.0 asked=$out/titles.parquet ;;
    base) prompt=jobs/templates/film-item.j2 asked=$out/titles.parquet ;;
    base-content) ;;
    *) echo "run.sh: $kind is no arm" >&2; exit 2 ;;
    esac
    files="$files $name=$out/arm-$name.parquet"
    [ -f "$out/arm-$name.parquet" ] && continue
    # All but nobody has met the items: every reason is made from the item alone.
    cat >"$out/$name.toml" <<TOML
name = "$name"
warehouse = "$out/warehouse-$name"
[input]
interaction = "$out/interaction.parquet"
item = "$asked"
[history]
items = "all"
user_active_days = 1
[model]
generator = "$CUREC_HOME/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
encoder = "$CUREC_HOME/models/minilm"
device = "cpu"
adapter = "$adapter"
[prompt]
item = "$prompt"
[sampling]
max_new_tokens = $tokens
repetition_penalty = $penalty
max_copied_words = $copied
attempts = ${ATTEMPTS:-3}
TOML
    "$CUREC_BIN" run "$out/$name.toml" --interval-start 1998-04-22 --interval-end 1998-04-23 >"$out/$name.json"
    "$CUREC_BIN" sql --job "$out/$name.toml" --format parquet --output "$out/arm-$name.parquet" "
        select r.item_id, r.reason, coalesce(s.accepted, false) as accepted, coalesce(s.refusal, r.error) as refusal,
            r.prompt_tokens, r.completion_tokens
        from reason r
        left join reason_score s on s.kind = r.kind and s.item_id = r.item_id and s.as_of = r.as_of
        where r.kind = 'item'"
done
# shellcheck disable=SC2086
"$PYTHON" benches/reasons/measure.py report --bin "$CUREC_BIN" --encoder "$CUREC_HOME/models/minilm" \
    --pool "$out/pool.parquet" --json "$out/report.json" $files
