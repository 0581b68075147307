# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` and `vllm.LLM` end on a configuration that cannot work with our message alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.saved_output import next_instance
from vllm_ascend_ext.mtp_output.ring.size import RingSize
from vllm_ascend_ext.mtp_output.sender import OutputSender

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
LOAD_ON: dict[str, Any] = {"ascend_ext": {"eplb_load": {"enabled": True}}}
_DEADLINE_S = 240.0


@pytest.fixture
def other_vllm(tmp_path: Path) -> Path:
    """A folder that makes importlib.metadata believe in vLLM 0.99.0 when it is first on the path."""
    metadata = tmp_path / "vllm-0.99.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n")
    return tmp_path


def test_serve_says_one_thing(tiny_model: str) -> None:
    """Through the real command line: the message alone, no traceback, and no engine was started."""
    config = {"ascend_ext": {"eplb_load": {"enabled": "yes"}, "elpb": {}}}
    done = _serve(tiny_model, config)
    _assert_plain(done, "ascend_ext.elpb: unknown key", "ascend_ext.eplb_load.enabled: expected bool")


def test_serve_says_everything_at_once_before_it_looks_for_weights(tiny_model: str, tmp_path: Path) -> None:
    """Five mistakes in five places, with a model folder that has no weights: one message names them all."""
    folder = tmp_path / "no-weights"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list(folder.glob("*.safetensors"))
    features = {
        "eplb_load": {"enabled": True, "intervall": 5},
        "attn_scatter": {"enabled": True},
        "mtp_output": {"enabled": True, "instance": (instance := next_instance())},
    }
    living = OutputSender(instance, 0, RingSize.for_engine(2, 1))  # another engine's
    arguments = ("--kv-cache-dtype", "fp8", "--max-logprobs", "-1")
    done = _serve(str(folder), {"ascend_ext": features}, *arguments)
    _assert_plain(
        done,
        "ascend_ext.eplb_load.intervall: unknown key; did you mean 'interval'?",
        "kv_cache_dtype='fp8' is not implemented",
        "ascend_ext.attn_scatter divides rows among tensor-parallel ranks, of which there is one; use more",
        f"ascend_ext.mtp_output.instance={instance} has the ring {living.path}, which process ",
        "ascend_ext.mtp_output copies at most `max_logprobs` log-probabilities, and -1 is a whole vocabulary",
    )
    living.close()


def test_serve_refuses_an_untested_vllm(tiny_model: str, other_vllm: Path) -> None:
    done = _serve(tiny_model, LOAD_ON, environment={"PYTHONPATH": str(other_vllm)})
    _assert_plain(done, "vLLM 0.99.0 is not a tested version; tested: 0.23.0")


def test_serve_goes_on_with_an_untested_vllm_when_told(tiny_model: str, other_vllm: Path) -> None:
    """It says so, and gets as far as the next error."""
    environment = {"PYTHONPATH": str(other_vllm), "VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM": "1"}
    done = _serve(tiny_model, LOAD_ON, "--pipeline-parallel-size", "2", environment=environment)
    _assert_plain(done, "pipeline parallelism is not implemented")
    assert "vLLM 0.99.0 is not a tested version" in done.stdout + done.stderr


def test_offline_engine_says_one_thing(tiny_model: str) -> None:
    """`vllm.LLM` in a script of the user's own."""
    script = f"import vllm\nvllm.LLM({tiny_model!r}, kv_cache_dtype='fp8', additional_config={LOAD_ON!r})"
    _assert_plain(_run([sys.executable, "-c", script]), "kv_cache_dtype='fp8' is not implemented")


def _serve(
    model: str, config: dict[str, Any], *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--host", "127.0.0.1"]
    return _run([*command, "--port", "0", "--additional-config", json.dumps(config), *arguments], environment)


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
    )


def _assert_plain(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """It failed, and its error ends with these lines and nothing else, without a traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "EngineCore" not in done.stderr + done.stdout  # it would be the engine's log
    _, separator, message = done.stderr.rpartition("vllm-ascend-ext: error: ")
    assert separator, done.stderr
    assert len(message.strip().splitlines()) == len(says)
    for line, words in zip(message.splitlines(), says, strict=False):
        assert words in line
