#!/bin/sh
# The direction rule, the fences and the table rules (ci/check.py), and that the reference pages that need no binary are up to
# date (ci/references.py).
set -eu
here=$(dirname "$0")
python3 "$here/check.py" "$@"
exec python3 "$here/references.py" --check
