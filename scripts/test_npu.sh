#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets everything up and runs the tests marked npu or emulator on the emulator, two files at a time; arguments go to
# pytest, and a -m or -n among them takes the place of ours.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup_npu.sh"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
# files in our order: ranks are forked, which must come before their process uses a device (tests/conftest.py)
exec python -m emulator run -- python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
  --basetemp=.cache/pytest-npu -m "npu or emulator" "$@"
