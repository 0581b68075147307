# SPDX-License-Identifier: Apache-2.0
"""The one server of a command or a script, with what the shell would give it."""

from __future__ import annotations

import pytest

from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.shell_text import ServeCommand, left_open, read_text, read_words

SCRIPT = r"""
#!/bin/bash
# vllm serve nothing, this is a comment; and "this one's quote is open
export HCCL_BUFFSIZE=1024 VLLM_ASCEND_ENABLE_FLASHCOMM1=1
nic_name="eth0"   # of this machine
TP=8
echo "starting"; cd /models && OMP_NUM_THREADS=1 nohup vllm serve ${MODEL:-/models/DeepSeek-R1} \
  --tensor-parallel-size $TP --port $PORT \
  --additional-config '{"enable_flashcomm1": true, "nic": "a b"}' \
  --kv-transfer-config \
  '{"kv_connector": "M",
    "kv_role": "kv_producer"}' > log.txt 2>&1 &
"""


def test_a_script_is_read_as_a_shell_reads_it() -> None:
    command = read_text(SCRIPT)
    assert command.environment == {
        "HCCL_BUFFSIZE": "1024",
        "VLLM_ASCEND_ENABLE_FLASHCOMM1": "1",
        "OMP_NUM_THREADS": "1",
    }
    assert command.arguments == (
        "/models/DeepSeek-R1",
        "--tensor-parallel-size",
        "8",
        "--port",
        "$PORT",
        "--additional-config",
        '{"enable_flashcomm1": true, "nic": "a b"}',
        "--kv-transfer-config",
        '{"kv_connector": "M",\n    "kv_role": "kv_producer"}',
    )


def test_words_that_a_shell_has_split() -> None:
    words = ["HCCL_BUFFSIZE=200", "vllm", "serve", "M", "--hf-overrides", '{"a": "b; c"}']
    assert read_words(words) == ServeCommand(("M", "--hf-overrides", '{"a": "b; c"}'), {"HCCL_BUFFSIZE": "200"})
    assert read_words([" ".join(words[:4])]) == ServeCommand(("M",), {"HCCL_BUFFSIZE": "200"})
    assert read_words(["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "M"]).arguments == (
        "--model",
        "M",
    )


@pytest.mark.parametrize(
    ("text", "model"),
    [("vllm serve <MODEL_PATH> -tp 2", "${MODEL_PATH}"), ("vllm serve $MODEL -tp 2", "$MODEL")],
)
def test_what_is_to_be_filled_in_stays_open(text: str, model: str) -> None:
    command = read_text(text)
    assert command.arguments == (model, "-tp", "2")
    assert left_open(model) == model and left_open("model") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve A & vllm serve B", "2 servers"),
        ("vllm serve A\nvllm serve B\nvllm serve C", "3 servers"),
        ("vllm bench serve A", "no `vllm serve`"),
        ("docker run image", "no `vllm serve`"),
        ("", "no `vllm serve`"),
        ("vllm serve 'A", "quotes do not match"),
    ],
)
def test_what_is_not_one_server_is_refused(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        read_text(text)


def test_several_servers_among_split_words() -> None:
    with pytest.raises(CommandError, match="2 servers"):
        read_words(["vllm", "serve", "A", "&", "vllm", "serve", "B"])
