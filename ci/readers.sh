#!/usr/bin/env bash
# Reads what a real curec publishes with other tools: pandas, Polars, DuckDB, Spark, Hugging Face's datasets, readers of Delta
# tables, and Feast. ci/readers_runs.py tells what is checked.
#
#   ci/readers.sh --install   # only the environment; exit 1 with a reason where it cannot be had
#   ci/readers.sh
#
#   CUREC_BIN        the curec binary (default: the one that ci/test.sh builds)
#   CUREC_OFFLINE=1  installs nothing
#
# The tools live in $HOME/.cache/curec/readers-venv (ci/readers-requirements.txt). Spark needs Java 17 or later: where there is
# none, and this is root on Debian, apt-get installs openjdk-17-jre-headless. All that is written lies in a temporary folder.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$HOME/.cache/curec/readers-venv
wanted=ci/readers-requirements.txt

# The major version of the Java on the path; 0 without one.
java_version() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1) || true
    echo "${version:-0}"
}

install_java() {
    if [ "$(java_version)" -ge 17 ]; then return; fi
    if [ "${CUREC_OFFLINE:-0}" = 1 ]; then echo 'no Java 17 for Spark, and CUREC_OFFLINE=1'; return 1; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo 'Spark needs Java 17 (Debian: apt-get install openjdk-17-jre-headless)'
        return 1
    fi
    local log
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless; } >"$log" 2>&1 ||
        tail -n 3 "$log"
    rm -f "$log"
    if [ "$(java_version)" -lt 17 ]; then echo 'openjdk-17-jre-headless could not be installed'; return 1; fi
}

install() {
    if ! cmp -s "$wanted" "$venv/requirements.txt"; then
        if [ "${CUREC_OFFLINE:-0}" = 1 ]; then echo 'no environment with Spark and Feast, and CUREC_OFFLINE=1'; return 1; fi
        if ! python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
            echo 'Spark and Feast need Python 3.11 to 3.13'
            return 1
        fi
        local log
        log=$(mktemp)
        rm -f "$venv/requirements.txt"
        if python3 -m venv "$venv" >"$log" 2>&1 &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir -r "$wanted" >>"$log" 2>&1 &&
            "$venv/bin/feast" version >>"$log" 2>&1; then
            cp "$wanted" "$venv/requirements.txt"
            rm -f "$log"
        else
            tail -n 3 "$log"
            rm -f "$log"
            echo 'Spark and Feast could not be installed'
            return 1
        fi
    fi
    install_java
}

install
if [ "${1:-}" = --install ]; then exit; fi

curec=${CUREC_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}/ci/curec}
if [ ! -x "$curec" ]; then
    echo "readers: there is no $curec; build it, or name one with CUREC_BIN"
    exit 1
fi
curec=$(realpath "$curec")
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Settings of the caller's own Spark, Hugging Face and Feast do not count, and nothing is asked of the network.
for name in $(compgen -e | grep -E '^(SPARK|PYSPARK|HADOOP|HF|FEAST)_' || true); do unset "$name"; done
mkdir "$scratch/home"
export HOME=$scratch/home
export HF_HOME=$scratch/hugging-face HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
export SPARK_LOCAL_IP=127.0.0.1 SPARK_LOCAL_DIRS=$scratch/spark FEAST_USAGE=False PYTHONWARNINGS=ignore
log=$scratch/log
code=0
(cd "$scratch" && "$venv/bin/python" "$root/ci/readers_runs.py" "$scratch" "$curec") >"$log" 2>&1 || code=$?
grep '^readers: ' "$log" || true
if [ "$code" != 0 ]; then tail -n 40 "$log"; fi
exit "$code"
