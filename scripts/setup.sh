#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up .venv for the CPU: a pinned environment and vLLM built from source with no compiled extension.
# Does nothing when the environment is already there and its pins have not changed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
python="${PYTHON:-python3.11}"
if ! command -v "$python" >/dev/null; then
  echo "setup: $python not found; install Python 3.11 or name one with PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != 3.11 ]; then
  echo "setup: the pins in requirements/ are for Python 3.11; name one with PYTHON=" >&2
  exit 1
fi
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9   # two scripts started together set up once

stamp="$(cat requirements/cpu.txt requirements/test.txt requirements/docs.txt scripts/setup.sh pyproject.toml setup.py | sha256sum | cut -d' ' -f1)"
channel="$(cat csrc_channel/*.cpp csrc_channel/*.h vllm_ascend_ext/__init__.py | sha256sum | cut -d' ' -f1)"
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@" 2> >(grep -v 'is ignored: it is neither' >&2); }
# this checkout, with the C++ channel of MTP output where a compiler is
checkout() {
  pip install --no-build-isolation --no-deps --editable .
  echo "$channel" > .venv/ascend-ext-channel.stamp
}
if [ "$(cat .venv/ascend-ext.stamp 2>/dev/null)" = "$stamp" ]; then
  [ "$(cat .venv/ascend-ext-channel.stamp 2>/dev/null)" = "$channel" ] || checkout
  exit 0
fi
echo "setup: installing into .venv (a few minutes the first time)"
[ -x .venv/bin/python ] || "$python" -m venv .venv

# 1. torch, CPU build. An index that has only CUDA builds (several GB) works too; PyTorch's CPU index, given in
#    PIP_EXTRA_INDEX_URL, avoids that.
pip install "torch==2.13.0+cpu" 2>/dev/null || pip install "torch==2.13.0"
# 2. everything else, pinned, without dependencies: a resolver would bring torchvision and torchaudio, whose
#    registry builds are for CUDA and make `import transformers` fail next to a CPU torch.
pip install --no-deps -r requirements/cpu.txt -r requirements/test.txt -r requirements/docs.txt
for package in torchvision torchaudio torchcodec; do
  if .venv/bin/python -m pip show --quiet "$package" 2>/dev/null; then
    echo "setup: removing $package from .venv (not needed, and built for another torch)"
    pip uninstall --yes "$package"
  fi
done
# 3. vLLM from source, target `empty`: Python only. The version is overridden because the build would call
#    itself 0.23.0+empty and pip would refuse the mismatch.
VLLM_VERSION_OVERRIDE=0.23.0 VLLM_TARGET_DEVICE=empty \
  pip install --no-build-isolation --no-deps --no-binary vllm vllm==0.23.0
# 4. this checkout
checkout
echo "$stamp" > .venv/ascend-ext.stamp
