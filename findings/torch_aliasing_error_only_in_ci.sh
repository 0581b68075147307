#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0 refuses a compiled program in CI that it runs, with a warning, everywhere else.
#
# A custom operator that returns its own input breaks the rule that outputs of custom operators alias nothing. For
# operators of torch.library.Library (torch.library.custom_op always raises) torch 2.13.0 checks this at the first
# call of a compiled function. Whether a breach warns or raises depends on the environment variable CI, which nearly every CI service sets: torch._functorch.config reads it when it is imported,
# and the error's text names neither the variable nor the switch. Real operators are hit: vllm-ascend 0.23.0.post1's
# `vllm::maybe_pad_and_reduce` returns what its communicator reduced in place, so that its compiled models run on a
# server and fail in a CI job on the same machine.
#
# Expected: CI unset: the result, and a UserWarning. CI=1: RuntimeError. CI=1 with
# TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING=0: as with CI unset. CI=false: RuntimeError, for any text counts.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0+cpu" "numpy==2.3.5" 2>/dev/null ||
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --index-url https://download.pytorch.org/whl/cpu \
    "torch==2.13.0+cpu"

cat >"$folder/program.py" <<'PYTHON'
import warnings

import torch


library = torch.library.Library("finding", "DEF")
library.define("same(Tensor x) -> Tensor")
library.impl("same", lambda x: x, "CPU")
library.impl("same", torch.empty_like, "Meta")


@torch.compile(backend="aot_eager", fullgraph=True)
def program(x):
    return torch.ops.finding.same(x + 1) * 2


with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    try:
        print("result", program(torch.ones(2)).tolist(), end=" ")
    except RuntimeError as error:
        print("RuntimeError", "may not alias any inputs" in str(error), "CI" in str(error), end=" ")
print("warned", any("may not alias any inputs" in str(one.message) for one in seen))
PYTHON

run() { env -i PATH="$PATH" HOME="$folder" "$@" "$folder/venv/bin/python" "$folder/program.py"; }
status=0
expect() {
  local wanted="$1" got
  shift
  got="$(run "$@" 2>"$folder/stderr" || :)"
  echo "${*:-CI unset}: $got"
  if [ "$got" != "$wanted" ]; then
    echo "  expected: $wanted"
    cat "$folder/stderr"
    status=1
  fi
}
expect "result [4.0, 4.0] warned True"
expect "RuntimeError True False warned False" CI=1
expect "result [4.0, 4.0] warned True" CI=1 TORCHINDUCTOR_ERROR_ON_CUSTOM_OP_ALIASING=0
expect "RuntimeError True False warned False" CI=false
exit "$status"
