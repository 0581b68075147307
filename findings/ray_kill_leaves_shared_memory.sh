#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Ray 2.48.0 on Linux, CPython 3.11: what an actor holds in shared memory stays after `ray.kill`.
#
# A `multiprocessing.shared_memory.SharedMemory` is given back by Python's resource tracker when the process that made
# it is killed: the tracker is a process of its own, and lives on for that. A Ray worker that `ray.kill` ends first
# kills all its child processes, the tracker among them, so that nobody unlinks the file in /dev/shm. Seen: the file of
# a process that was killed by SIGKILL is gone within seconds; the actor's file is still there. So a program that moves
# its worker processes into Ray actors and ends them by `ray.kill` fills /dev/shm, a little more at each restart.
# Fails if that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet install "ray==2.48.0" 2>&1 | grep -v "is ignored" || :
cat > "$folder/leak.py" <<'PYTHON'
import os
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory

import ray

HOLD = """
import time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4096)
print(memory.name, flush=True)
time.sleep(600)
"""


@ray.remote
class Holder:
    def hold(self):
        self.memory = SharedMemory(create=True, size=4096)
        return self.memory.name


def is_there_after_a_while(name):
    end = time.monotonic() + 10
    while os.path.exists(f"/dev/shm/{name}") and time.monotonic() < end:
        time.sleep(0.1)
    return os.path.exists(f"/dev/shm/{name}")


if __name__ == "__main__":
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    of_process = process.stdout.readline().strip()
    process.kill()
    process.wait()
    ray.init(num_cpus=1, include_dashboard=False)
    actor = Holder.remote()
    of_actor = ray.get(actor.hold.remote())
    ray.kill(actor)
    stays = {"process": is_there_after_a_while(of_process), "actor": is_there_after_a_while(of_actor)}
    print(f"ray {ray.__version__}; in /dev/shm 10 s after the kill: {stays}")
    if stays["actor"]:
        os.unlink(f"/dev/shm/{of_actor}")
    assert stays == {"process": False, "actor": True}, stays
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 timeout 300 "$folder/venv/bin/python" leak.py 2>"$folder/log" || { tail -20 "$folder/log" >&2; exit 1; }
