# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the other scripts: the checkout's virtual environment, and every cache inside the checkout.
root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
export PATH="$root/.venv/bin:$PATH"
export XDG_CACHE_HOME="$root/.cache" XDG_CONFIG_HOME="$root/.cache/config"
export VLLM_CACHE_ROOT="$root/.cache/vllm" VLLM_CONFIG_ROOT="$root/.cache/config/vllm"
export HF_HOME="$root/.cache/huggingface" TORCHINDUCTOR_CACHE_DIR="$root/.cache/torchinductor"
export TRITON_CACHE_DIR="$root/.cache/triton" MPLCONFIGDIR="$root/.cache/matplotlib"
# vLLM's processes leave their sockets where they bind them; a socket's path has at most 107 bytes
if [ "${#root}" -le 55 ]; then
  mkdir -p "$root/.cache/rpc"
  export VLLM_RPC_BASE_PATH="$root/.cache/rpc"
fi
# no model hub, no usage statistics
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
# ranks are forked processes that share the cores; compiling small graphs costs more than it saves
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false TORCHDYNAMO_DISABLE=1
# with CI set, torch refuses operators that return their input; it warns on a server, where vllm-ascend's do so
export TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING=0
# each module of the checkout is compiled once, not by each process that imports it
unset PYTHONDONTWRITEBYTECODE
