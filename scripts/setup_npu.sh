#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv-npu for the emulator: everything of .venv, plus torch_npu and vllm-ascend. Needs no NPU and no CANN.
# Does nothing when the environment is already there and its pins have not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/second_pair/environment.sh
./scripts/setup.sh
exec 9>.cache/setup_npu.lock
flock 9   # two scripts started together set up once

stamp="$(cat requirements/npu.txt scripts/second_pair/environment.sh scripts/setup_npu.sh .venv/ascend-ext.stamp | sha256sum |
  cut -d' ' -f1)"
if [ "$(cat .venv-npu/ascend-ext.stamp 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
echo "setup_npu: installing into .venv-npu"
rm -f .venv-npu/ascend-ext.stamp
make_environment .venv-npu
packages="lib/python3.11/site-packages"

# 1. .venv's packages come after .venv-npu's own, then the checkout. The second line prepares a process for the
#    emulator (emulator/startup.py).
cat > ".venv-npu/$packages/ascend_ext_base.pth" <<PTH
import os, site, sys; site.addsitedir(os.path.join(os.path.dirname(sys.prefix), ".venv", "$packages"))
import os, sys; sys.path.append(os.path.dirname(sys.prefix)); import emulator.startup; emulator.startup.prepare()
PTH

# 2. torch_npu and vllm-ascend, the latter from source
install_without_kernels .venv-npu vllm-ascend -r requirements/npu.txt

# 3. the commands
copy_commands .venv-npu
echo "$stamp" > .venv-npu/ascend-ext.stamp
