#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets the second pair up (vLLM 0.30.0 with vllm-ascend 0.30.0rc2) and runs on the emulator what is tested with it;
# arguments go to pytest.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/setup.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$root"
export EMULATOR_ENVIRONMENT=.venv-npu-030
exec python -m emulator run -- python -m pytest --basetemp=.cache/pytest-npu-030 -m "npu or emulator" "$@" \
  tests/pairs tests/tools/check/test_vllm_ascend.py tests/emulator/operators/quantised/test_prolog.py \
  tests/emulator/operators/test_fla_npu.py tests/engine/test_vllm_ascend.py \
  tests/engine/test_vllm_ascend_graphs.py tests/eplb_load/test_vllm_ascend.py \
  tests/eplb_load/vllm_ascend/test_dispatch.py tests/engine/test_vllm_ascend_pairs.py \
  tests/engine/published/test_published.py tests/engine/transfer/test_vllm_ascend.py \
  tests/engine/test_vllm_ascend_sixteen.py tests/mtp_output/test_vllm_ascend.py
