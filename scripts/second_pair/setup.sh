#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv-npu-030, the emulator's environment with the second pair: vLLM 0.30.0 and vllm-ascend 0.30.0rc2, which
# come before .venv's vLLM. EMULATOR_ENVIRONMENT=.venv-npu-030 has the emulator use it.
# Does nothing when the environment is already there and its pins have not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/second_pair/environment.sh
./scripts/setup_npu.sh   # the emulator is built against its torch_npu
exec 9>.cache/second_pair.lock
flock 9   # two scripts started together set up once

environment=.venv-npu-030
stamp="$(cat requirements/npu_030.txt scripts/second_pair/environment.sh scripts/second_pair/setup.sh .venv/ascend-ext.stamp |
  sha256sum | cut -d' ' -f1)"
if [ "$(cat "$environment/ascend-ext.stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
echo "second_pair: installing into $environment"
rm -f "$environment/ascend-ext.stamp"
make_environment "$environment"

# 1. as .venv-npu: .venv's packages come after its own, and a process is prepared for the emulator
packages="lib/python3.11/site-packages"
cp ".venv-npu/$packages/ascend_ext_base.pth" "$environment/$packages/"

# 2. vLLM as .venv has it ("empty", without its front end in Rust, which is built where cargo is found), and
#    vllm-ascend from source
folders="$(tr ':' '\n' <<< "$PATH" | while read -r folder; do [ -x "$folder/cargo" ] || echo "$folder"; done)"
PATH="$(paste -sd: <<< "$folders")" VLLM_VERSION_OVERRIDE=0.30.0 VLLM_TARGET_DEVICE=empty \
  install_without_kernels "$environment" vllm,vllm-ascend -r requirements/npu_030.txt

# 3. the commands
copy_commands "$environment"
echo "$stamp" > "$environment/ascend-ext.stamp"
