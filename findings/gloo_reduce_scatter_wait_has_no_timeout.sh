#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# torch 2.13.0: the work of a reduce-scatter over Gloo takes a timeout for its wait, and does not keep it.
#
# `Work.wait(timeout)` of an asynchronous all-reduce or all-gather over Gloo raises after the timeout it is given.
# That of a reduce-scatter (with one tensor or a list) returns or raises only when the process group's own timeout
# ends, half an hour unless a group was made with another: it is an all-reduce whose work is waited for inside,
# without a timeout. `is_completed()` says False for ever, also when all ranks have long taken part. A program that
# waits in slices to find out which peer is gone therefore waits once, for as long as the group may.
#
# Expected, with a peer that does not take part, a wait of 1 s and a group's timeout of 20 s: the all-reduce and the
# all-gather raise early, both forms of the reduce-scatter at the group's timeout. With a peer that does: the
# all-reduce is completed after a second, the reduce-scatter is not, and is right once it has been waited for.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0+cpu" "numpy==2.3.5" 2>/dev/null ||
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --index-url https://download.pytorch.org/whl/cpu \
    "torch==2.13.0+cpu"

cat >"$folder/program.py" <<'PYTHON'
import multiprocessing
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

WAIT_S, GROUP_S = 1, 20


def begin(name, out, x, group):
    if name == "all_reduce":
        return dist.all_reduce(x, group=group, async_op=True)
    if name == "all_gather":
        return dist.all_gather_into_tensor(torch.empty(2 * len(x)), x, group=group, async_op=True)
    if name == "reduce_scatter_tensor":
        return dist.reduce_scatter_tensor(out, x, group=group, async_op=True)
    return dist.reduce_scatter(out, list(x.chunk(2)), group=group, async_op=True)


def rank(number, folder, name):
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=number, world_size=2)
    together, alone = (dist.new_group(timeout=timedelta(seconds=GROUP_S)) for _ in range(2))
    x, out = torch.full((4,), number + 1.0), torch.zeros(2)
    work = begin(name, out, x, together)
    dist.barrier()
    time.sleep(1)
    completed = work.is_completed()
    work.wait()
    if number == 1:
        time.sleep(1.5 * GROUP_S)
        return
    right = name in ("all_reduce", "all_gather") or out.tolist() == [3.0, 3.0]
    begun = time.monotonic()
    try:
        begin(name, out, x, alone).wait(timedelta(seconds=WAIT_S))
        end = "returned"
    except RuntimeError:
        end = "raised early" if time.monotonic() - begun < GROUP_S / 2 else "raised at the group's timeout"
    print(f"{name}: with the peer completed {completed}, right {right}; without it {end}")


if __name__ == "__main__":
    ranks = [multiprocessing.Process(target=rank, args=(number, *sys.argv[1:3])) for number in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
PYTHON

status=0
expect() {
  local got
  got="$("$folder/venv/bin/python" -W ignore "$folder/program.py" "$folder" "$1" 2>"$folder/stderr" || :)"
  echo "$got"
  if [ "$got" != "$1: $2" ]; then
    echo "  expected: $1: $2"
    tail -5 "$folder/stderr"
    status=1
  fi
}
early="with the peer completed True, right True; without it raised early"
late="with the peer completed False, right True; without it raised at the group's timeout"
expect all_reduce "$early"
expect all_gather "$early"
expect reduce_scatter_tensor "$late"
expect reduce_scatter "$late"
exit "$status"
