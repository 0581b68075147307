#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets everything up and runs the tests marked npu or emulator on the emulator; arguments go to pytest, and a -m among
# them takes the place of ours.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup_npu.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
exec python -m emulator run -- python -m pytest --basetemp=.cache/pytest-npu -m "npu or emulator" "$@"
