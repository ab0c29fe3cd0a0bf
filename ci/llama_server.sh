#!/usr/bin/env bash
# A night against a real OpenAI-compatible server: llama.cpp's, on loopback. The server is killed in the middle, started again,
# and the night goes on; then a night without disturbance is compared with it. Not a step of ci/test.sh; a person runs this.
#
#   python3 -m pip install xllamacpp    # llama.cpp's server in a wheel; or have llama-server on the PATH,
#   ci/llama_server.sh                  # or llama-cpp-python[server], which takes a quarter of an hour to build
#
#   CUREC_BIN     the binary (default $HOME/.cache/curec/target/ci/curec)
#   CUREC_HOME    data and models (default $HOME/.cache/curec/home; `CUREC_HOME=... ci/fetch.sh` fills it)
#   CUREC_MODEL   the GGUF file that is served (default SmolLM2-135M-Instruct of CUREC_HOME)
#   PYTHON        the Python that has xllamacpp or llama_cpp (default python3)
#
# Ends with 0 where every prompt of both nights was answered and kept once and the nights asked the same; says how many answers
# differ, since a server need not answer the same twice. Without a server, a model or data it says why it is skipped, and
# ends with 0.
set -euo pipefail
cd "$(dirname "$0")/.."

CUREC_BIN=${CUREC_BIN:-$HOME/.cache/curec/target/ci/curec}
export CUREC_HOME=${CUREC_HOME:-$HOME/.cache/curec/home}
model=${CUREC_MODEL:-$CUREC_HOME/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
python=${PYTHON:-python3}

say() { printf 'llama_server: %s\n' "$*" >&2; }
skip() {
    say "skipped: $*"
    exit 0
}
fail() {
    say "FAILED: $*"
    exit 1
}

[ -x "$CUREC_BIN" ] || skip "there is no curec at $CUREC_BIN (CUREC_BIN)"
[ -f "$model" ] || skip "there is no model at $model (CUREC_HOME, CUREC_MODEL; ci/fetch.sh)"
[ -d "$CUREC_HOME/data/ml-100k" ] || skip "MovieLens-100k is not below $CUREC_HOME (ci/fetch.sh)"
if command -v llama-server >/dev/null; then
    kind=llama-server
elif "$python" -c 'import xllamacpp' 2>/dev/null; then
    kind=xllamacpp
elif "$python" -c 'import llama_cpp.server.app' 2>/dev/null; then
    kind=llama_cpp.server
else
    skip "neither llama-server nor Python's xllamacpp or llama_cpp.server is installed (pip install xllamacpp)"
fi

work=$(mktemp -d)
server=
stop_server() {
    [ -z "$server" ] && return
    kill -9 "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}
trap 'stop_server; rm -rf "$work"' EXIT

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
address=http://127.0.0.1:$port/v1

start_server() {
    case $kind in
    llama-server)
        llama-server --model "$model" --alias m --host 127.0.0.1 --port "$port" --ctx-size 2048 --parallel 2 \
            >>"$work/server.log" 2>&1 &
        ;;
    xllamacpp)
        "$python" - "$model" "$port" >>"$work/server.log" 2>&1 <<'PYTHON' &
import signal, sys
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.model_alias = {"m"}
parameters.port = int(sys.argv[2])
parameters.n_ctx = 2048
parameters.n_parallel = 2
server = xllamacpp.Server(parameters)
print("listens at", server.listening_address, flush=True)
signal.pause()
PYTHON
        ;;
    *)
        "$python" -m llama_cpp.server --model "$model" --model_alias m --host 127.0.0.1 --port "$port" --n_ctx 1024 \
            --interrupt_requests false >>"$work/server.log" 2>&1 &
        ;;
    esac
    server=$!
    for _ in $(seq 120); do
        "$python" -c "import urllib.request as u; u.urlopen('$address/models', timeout=2)" 2>/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    tail -n 20 "$work/server.log" >&2
    fail "$kind did not start"
}

# curec_in WAREHOUSE COMMAND [ARGUMENTS...]: the quick start's job with the server for its generator, and few prompts.
curec_in() {
    local warehouse=$1 what=$2
    shift 2
    # llama_cpp.server tells log-likelihoods only where it keeps all logits, which takes memory.
    "$CUREC_BIN" "$what" "$@" --set "warehouse=$warehouse" --set "model.generator=$address" --set model.endpoint_model=m \
        --set model.adapter= --set model.endpoint_at_once=2 --set model.endpoint_retry_seconds=5 \
        --set model.endpoint_logprobs=false --set response.flush_rows=1 --set sampling.max_new_tokens=24 \
        --set sampling.attempts=1 --set sampling.max_copied_words=0 --set prompt.item=item --set prompt.history=history \
        --set "input.interaction=$work/input/interaction.parquet" --set "input.item=$work/input/item.parquet" \
        --set history.max_users=8 --set history.max_items=16 --set budget.max_failed_fraction=0.2
}
run() { curec_in "$1" run jobs/quickstart.toml --interval-start 1998-04-20 --interval-end 1998-04-21; }
query() { curec_in "$1" sql --job jobs/quickstart.toml --format csv "$2"; }
kept() { find "$1/response" -name 'seg-*' 2>/dev/null | wc -l; }

"$CUREC_BIN" import movielens "$CUREC_HOME/data/ml-100k" --descriptions jobs/quickstart/synopses.csv --out "$work/input" >&2

say "a night whose server is killed ($kind)"
start_server
run "$work/killed" >"$work/first.out" 2>"$work/first.err" &
night=$!
while [ "$(kept "$work/killed")" -lt 6 ]; do
    kill -0 "$night" 2>/dev/null || break
    sleep 0.1
done
stop_server
code=0
wait "$night" || code=$?
if [ "$code" -ne 75 ]; then
    tail -n 20 "$work/first.err" >&2
    fail "the night ended with $code where 75 was expected"
fi
before=$(kept "$work/killed")
say "it ended with 75 and has kept $before segments; the server is started again"
start_server
run "$work/killed" >"$work/second.out" || fail "the night did not go on"
say "a night without disturbance"
run "$work/whole" >"$work/whole.out" || fail "the undisturbed night failed"

once="select count(*) - count(distinct prompt_key) as twice from response where error is null"
for warehouse in killed whole; do
    [ "$(query "$work/$warehouse" "$once" | tail -n 1)" = 0 ] || fail "a prompt was paid twice in the $warehouse night"
done
prompts="select distinct prompt_key from response where error is null order by 1"
query "$work/killed" "$prompts" >"$work/killed.keys"
query "$work/whole" "$prompts" >"$work/whole.keys"
cmp "$work/killed.keys" "$work/whole.keys" || fail "the nights asked different prompts"
"$python" - "$work" <<'PYTHON'
import json, sys
from pathlib import Path
work = Path(sys.argv[1])
last = {name: json.loads((work / f"{name}.out").read_text().splitlines()[-1]) for name in ("second", "whole")}
whole, second = last["whole"]["generated"], last["second"]["generated"]
if not 0 < second < whole:
    sys.exit(f"llama_server: FAILED: the second run paid for {second} of {whole} prompts")
print(f"llama_server: the second run paid for {second} of {whole} prompts", file=sys.stderr)
PYTHON
texts="select prompt_key, text from response where error is null order by 1"
query "$work/killed" "$texts" >"$work/killed.texts"
query "$work/whole" "$texts" >"$work/whole.texts"
same=$(comm -12 <(sort "$work/killed.texts") <(sort "$work/whole.texts") | wc -l)
all=$(wc -l <"$work/whole.texts")
say "passed: $((same - 1)) of $((all - 1)) answers are the same in both nights"
