# SPDX-License-Identifier: Apache-2.0
"""What is imported for all ranks costs the garbage collector nothing, neither here nor in the ranks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine

# in a process of its own: what other tests have left in this one is not frozen, and may be as much as vLLM
PROGRAM = """
import gc, json
from vllm_ascend_ext.tools.forked_ranks import Layout, run_ranks
from vllm_ascend_ext.tools.preload import preload

preload()
job = lambda rank: (gc.isenabled(), len(gc.get_objects()))
((is_enabled, num_objects),) = run_ranks(job, Layout(), deadline_s=60)
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), is_enabled, num_objects]))
"""


def test_ranks_collect_nothing_of_what_was_imported_before() -> None:
    program = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert program.returncode == 0, program.stderr
    is_enabled_here, num_frozen, is_enabled, num_objects = json.loads(program.stdout.splitlines()[-1])
    assert is_enabled_here
    assert num_frozen > 300_000, "what is imported is still collected"
    assert is_enabled and num_objects < num_frozen / 2
