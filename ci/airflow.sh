#!/usr/bin/env bash
# Runs the samples for Airflow in a real Airflow 3 with a real curec: ci/airflow_runs.py tells what is checked.
#
#   ci/airflow.sh --install   # only the environment; exit 1 with a reason where it cannot be had
#   ci/airflow.sh
#
#   CUREC_BIN        the curec binary (default: the one that ci/test.sh builds)
#   CUREC_OFFLINE=1  installs nothing
#
# Airflow lives in $HOME/.cache/curec/airflow-venv (ci/airflow-requirements.txt); all that it writes lies in a temporary
# folder: its settings, its database and its logs.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$HOME/.cache/curec/airflow-venv
wanted=ci/airflow-requirements.txt

install() {
    if cmp -s "$wanted" "$venv/requirements.txt"; then return; fi
    if [ "${CUREC_OFFLINE:-0}" = 1 ]; then echo 'no environment with Airflow, and CUREC_OFFLINE=1'; return 1; fi
    if ! python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; then
        echo 'Airflow needs Python 3.10 to 3.13'
        return 1
    fi
    local scratch log
    scratch=$(mktemp -d)
    log=$scratch/log
    rm -f "$venv/requirements.txt"
    if python3 -m venv "$venv" >"$log" 2>&1 &&
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" >>"$log" 2>&1 &&
        AIRFLOW_HOME=$scratch/home "$venv/bin/airflow" version >>"$log" 2>&1; then
        cp "$wanted" "$venv/requirements.txt"
        rm -rf "$scratch"
    else
        tail -n 3 "$log"
        rm -rf "$scratch"
        echo 'Airflow could not be installed'
        return 1
    fi
}

install
if [ "${1:-}" = --install ]; then exit; fi

curec=${CUREC_BIN:-${CARGO_TARGET_DIR:-$HOME/.cache/curec/target}/ci/curec}
if [ ! -x "$curec" ]; then
    echo "airflow: there is no $curec; build it, or name one with CUREC_BIN"
    exit 1
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/dags"
for dag in nightly_dag.py nightly_pod_dag.py; do
    sed "s|^CUREC_DIR = .*|CUREC_DIR = \"$scratch/job\"|" "jobs/$dag" >"$scratch/dags/$dag"
done

# Variables of the caller's own Airflow do not count.
for name in $(compgen -e AIRFLOW_ || true); do unset "$name"; done
export AIRFLOW_HOME=$scratch/home AIRFLOW__CORE__DAGS_FOLDER=$scratch/dags AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__LOGGING__LOGGING_LEVEL=WARNING AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
export AIRFLOW__CORE__UNIT_TEST_MODE=False PYTHONWARNINGS=ignore
log=$scratch/log
code=0
{ "$venv/bin/airflow" db migrate && "$venv/bin/python" ci/airflow_runs.py "$scratch" "$curec"; } >"$log" 2>&1 || code=$?
grep '^airflow: ' "$log" || true
if [ "$code" != 0 ]; then tail -n 40 "$log"; fi
exit "$code"
