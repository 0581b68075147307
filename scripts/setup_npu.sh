#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv-npu for the emulator: everything of .venv, plus torch_npu and vllm-ascend. Needs no NPU and no CANN.
# Does nothing when the environment is already there and its pins have not changed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
./scripts/setup.sh
exec 9>.cache/setup_npu.lock
flock 9   # two scripts started together set up once

stamp="$(cat requirements/npu.txt scripts/setup_npu.sh .venv/ascend-ext.stamp | sha256sum | cut -d' ' -f1)"
if [ "$(cat .venv-npu/ascend-ext.stamp 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi
echo "setup_npu: installing into .venv-npu"
rm -f .venv-npu/ascend-ext.stamp
# the same interpreter as .venv, whose packages it shares
[ -x .venv-npu/bin/python ] || .venv/bin/python -c '
import subprocess, sys
subprocess.check_call([sys._base_executable, "-m", "venv", "--without-pip", ".venv-npu"])'
packages="lib/python3.11/site-packages"

# 1. .venv's packages come after .venv-npu's own, then the checkout. The second line prepares a process for the
#    emulator (emulator/startup.py).
cat > ".venv-npu/$packages/ascend_ext_base.pth" <<PTH
import os, site, sys; site.addsitedir(os.path.join(os.path.dirname(sys.prefix), ".venv", "$packages"))
import os, sys; sys.path.append(os.path.dirname(sys.prefix)); import emulator.startup; emulator.startup.prepare()
PTH

# 2. torch_npu and vllm-ascend, the latter from source and without its compiled kernels, which need CANN. torch must
#    not load torch_npu while vllm-ascend's build imports it: the emulator is not built yet.
export TORCH_DEVICE_BACKEND_AUTOLOAD=0 SOC_VERSION=ascend910b1 COMPILE_CUSTOM_KERNELS=0
.venv-npu/bin/python -m pip --disable-pip-version-check --quiet install --no-build-isolation --no-deps \
  --no-binary vllm-ascend -r requirements/npu.txt 2> >(grep -v 'is ignored: it is neither' >&2)

# 3. .venv's commands, started by .venv-npu's Python
for script in .venv/bin/*; do
  target=".venv-npu/bin/$(basename "$script")"
  if [ -f "$script" ] && [ ! -e "$target" ] && head -n 1 "$script" | grep -aq "^#!$root/.venv/bin/python"; then
    sed "1s|.*|#!$root/.venv-npu/bin/python|" "$script" > "$target"
    chmod +x "$target"
  fi
done
echo "$stamp" > .venv-npu/ascend-ext.stamp
