#!/bin/sh
# The direction rule, the fences and the table rules; see ci/check.py.
set -eu
exec python3 "$(dirname "$0")/check.py" "$@"
