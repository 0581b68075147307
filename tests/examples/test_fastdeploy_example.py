# SPDX-License-Identifier: Apache-2.0
"""The example of FastDeploy's operators: two processes, two steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vllm_ascend_ext.mtp_output.ring.folder import ring_path

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastdeploy_output.py"


def test_the_reader_prints_what_the_writer_saved() -> None:
    example = subprocess.Popen(
        [sys.executable, EXAMPLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stdout, stderr = example.communicate(timeout=300)
    assert example.returncode == 0, stderr
    assert not ring_path(example.pid, 0).exists()
    assert stdout.splitlines() == [
        "step 0: first: count 3, tokens [11, 12, 13]",
        "step 0: second: count 1, tokens [21]",
        "step 1: first: count 2, tokens [14, 15]",
        "step 1: second: count -9, tokens []",
    ]


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
