#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint and types: the same commands as CI.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
ruff check .
python scripts/structure.py --check
mypy
