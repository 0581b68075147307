#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint, format, spelling and types: the same commands as CI and as the pre-commit hooks (scripts/checks.py).
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
python scripts/checks.py "$@"
