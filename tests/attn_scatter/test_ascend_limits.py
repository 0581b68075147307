# SPDX-License-Identifier: Apache-2.0
"""What scattered attention input refuses on vllm-ascend, as `check` judges commands, each for one reason only.

tests/tools/check/test_vllm_ascend.py compares `check` with start-up itself.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_ascend_ext.tools.check.shell_text import read_words
from vllm_ascend_ext.tools.check.verdicts import Question, Verdict, judge

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

V3, LITE, QWEN = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V2-Lite", "Qwen/Qwen3-30B-A3B"
TP2 = ("-tp", "2", "--enforce-eager")
GRAPHS = ("-tp", "2")
MTP = ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}')
NGRAM = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}')
TRANSFER = ("--kv-transfer-config", '{"kv_connector": "MooncakeConnectorV1", "kv_role": "kv_producer"}')
# (model, options, our section's further keys, vllm-ascend's keys) -> words of the one reason and its remedy
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "nothing": (V3, TP2, {}, {}, ()),
    "experts divided": (V3, (*TP2, "-ep"), {}, {}, ()),
    "full": (V3, TP2, {"full": True}, {}, ("with full", "set full to false")),
    "uneven": (V3, TP2, {"odd_rows": "uneven"}, {}, ("odd_rows='uneven'", "'pad'")),
    "one rank": (V3, ("--enforce-eager",), {}, {}, ("of which there is one", "use more")),
    "replicas": (V3, (*TP2, "-dp", "2"), {}, {}, ("data parallelism on vllm-ascend", "set it to 1")),
    "FlashComm v1": (V3, (*TP2, "-ep"), {}, {"enable_flashcomm1": True}, ("both divide the rows", "turn")),
    "EPLB": (V3, (*TP2, "-ep"), {}, {"eplb_config": {"dynamic_eplb": True}}, ("vllm-ascend's EPLB",)),
    "placement": (V3, TP2, {}, {"mix_placement": True}, ("with mix_placement", "turn that off")),
    "fine-grained TP": (
        V3,
        TP2,
        {},
        {"finegrained_tp_config": {"mlp_tensor_parallel_size": 2}},
        ("finegrained_tp_config",),
    ),
    "no prefetch": (V3, TP2, {}, {"weight_prefetch_config": {"enabled": False, "prefetch_ratio": {}}}, ()),
    "two settings": (
        V3,
        TP2,
        {},
        {"weight_prefetch_config": {"enabled": True}, "enable_matmul_allreduce": True},
        ("with weight_prefetch_config, enable_matmul_allreduce",),
    ),
    "graphs": (V3, (*GRAPHS, "-cc.cudagraph_mode=FULL_DECODE_ONLY"), {}, {}, ()),
    "other graphs": (
        V3,
        (*GRAPHS, "-cc.cudagraph_mode=FULL"),
        {},
        {},
        ("cudagraph_mode FULL ", "use FULL_DECODE"),
    ),
    "drafts": (V3, (*TP2, *MTP), {}, {}, ()),
    "both": (V3, (*GRAPHS, *MTP, "-cc.cudagraph_mode=PIECEWISE"), {}, {}, ("drafts beside vllm-ascend's graphs",)),
    "other drafts": (V3, (*TP2, *NGRAM), {}, {}, ("drafts of ngram", "use mtp")),
    "qkv divided": (QWEN, TP2, {}, {}, ()),
    "transfer": (V3, (*TP2, *TRANSFER), {}, {}, ("KV transfer", "remove kv_transfer_config")),
    "no wide projection": (LITE, TP2, {}, {}, ("without q_lora_rank",)),
    "quantised": (f"{V3}-w8a8", TP2, {}, {}, ("quantization='ascend'", "unquantised weights")),
}


def judged(
    model: str, options: tuple[str, ...], ours: dict[str, Any], theirs: dict[str, Any], soc: str = "A2"
) -> Verdict:
    section = {"attn_scatter": {"enabled": True, "min_tokens": 64, **ours}}
    additional = json.dumps({"ascend_ext": section, **theirs})
    words = ("vllm", "serve", model, *options, "--additional-config", additional)
    (verdict,) = judge(Question(read_words(words), (soc,)))
    return verdict


@pytest.mark.parametrize("name", CASES)
def test_one_value_is_refused_with_reason_and_remedy(name: str) -> None:
    *command, words = CASES[name]
    reasons = [str(reason) for reason in judged(*command).reasons]
    assert len(reasons) == bool(words), reasons
    for reason in reasons:
        assert reason.startswith("ascend_ext.attn_scatter ")
        assert reason.endswith("or set attn_scatter.enabled to false")
        assert all(part in reason for part in words)


def test_rows_that_travel_are_refused_where_they_do() -> None:
    """With expert parallelism an A3 sends rows by MC2 and all-to-all, and an A2 of few ranks gathers them."""
    assert not judged(V3, (*TP2, "-ep"), {}, {}).reasons
    (reason,) = judged(V3, (*TP2, "-ep"), {}, {}, "A3").reasons
    assert "MC2 or ALLTOALL" in str(reason) and "turn enable_expert_parallel off" in str(reason)


def test_all_reasons_are_said_at_once() -> None:
    options = ("-tp", "2", "-dp", "2", "-ep", *TRANSFER, *NGRAM)
    ours = {"full": True}
    reasons = judged(f"{V3}-w8a8", options, ours, {"enable_flashcomm1": True}, "A3").reasons
    assert len(reasons) >= 7
    assert len({str(reason) for reason in reasons}) == len(reasons)
