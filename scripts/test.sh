#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets everything up and runs the tests but those marked slow, two files at a time; arguments go to pytest, and a -m
# or -n among them takes the place of ours.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
exec python -m pytest -n 2 --dist loadfile --basetemp=.cache/pytest -m "not slow" "$@"
