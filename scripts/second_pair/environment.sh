# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by this folder's setup.sh and by scripts/setup_npu.sh: what the two environments on top of .venv have in
# common.

# make_environment ENVIRONMENT: the same interpreter as .venv, whose packages it shares
make_environment() {
  [ -x "$1/bin/python" ] || .venv/bin/python -c "
import subprocess, sys
subprocess.check_call([sys._base_executable, '-m', 'venv', '--without-pip', '$1'])"
}

# install_without_kernels ENVIRONMENT PACKAGES ARGUMENTS...: PACKAGES are built from source, vllm-ascend without its
# compiled kernels, which need CANN. torch must not load torch_npu while vllm-ascend's build imports it: the emulator
# is not built yet.
install_without_kernels() {
  TORCH_DEVICE_BACKEND_AUTOLOAD=0 SOC_VERSION=ascend910b1 COMPILE_CUSTOM_KERNELS=0 \
    "$1/bin/python" -m pip --disable-pip-version-check --quiet install --no-build-isolation --no-deps \
    --no-binary "$2" "${@:3}" 2> >(grep -v 'is ignored: it is neither' >&2)
}

# copy_commands ENVIRONMENT: .venv's commands, started by the environment's Python
copy_commands() {
  local script target
  for script in .venv/bin/*; do
    target="$1/bin/$(basename "$script")"
    if [ -f "$script" ] && [ ! -e "$target" ] && head -n 1 "$script" | grep -aq "^#!$PWD/.venv/bin/python"; then
      sed "1s|.*|#!$PWD/$1/bin/python|" "$script" > "$target"
      chmod +x "$target"
    fi
  done
}
