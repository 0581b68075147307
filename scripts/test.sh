#!/usr/bin/env bash
# Sets everything up and runs the tests but those marked slow; arguments go to pytest, and a -m among them takes the
# place of ours.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
exec python -m pytest --basetemp=.cache/pytest -m "not slow" "$@"
