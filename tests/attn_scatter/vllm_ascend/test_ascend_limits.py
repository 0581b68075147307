# SPDX-License-Identifier: Apache-2.0
"""What scattered attention input refuses on vllm-ascend, as `check` judges commands, each for one reason only.

tests/tools/check/test_vllm_ascend.py compares `check` with start-up itself.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.attn_scatter.ascend_limits import RULES
from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.tools.check.shell_text import read_words
from vllm_ascend_ext.tools.check.verdicts import Question, Verdict, judge

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

V3, LITE, QWEN = "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V2-Lite", "Qwen/Qwen3-30B-A3B"
V32 = "deepseek-ai/DeepSeek-V3.2"
TP2 = ("-tp", "2", "--enforce-eager")
GRAPHS = ("-tp", "2")
MTP = ("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 1}')
NGRAM = ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}')
SENDS, TAKES, BOTH = (
    ("--kv-transfer-config", f'{{"kv_connector": "MooncakeConnectorV1", "kv_role": "{role}"}}')
    for role in ("kv_producer", "kv_consumer", "kv_both")
)
# (model, options, our section's further keys, vllm-ascend's keys) -> words of the one reason and its remedy
CASES: dict[str, tuple[str, tuple[str, ...], dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "nothing": (V3, TP2, {}, {}, ()),
    "experts divided": (V3, (*TP2, "-ep"), {}, {}, ()),
    "full": (V3, TP2, {"full": True}, {}, ("with full", "set full to false")),
    "uneven": (V3, TP2, {"odd_rows": "uneven"}, {}, ("odd_rows='uneven'", "'pad'")),
    "one rank": (V3, ("--enforce-eager",), {}, {}, ("of which there is one", "use more")),
    "replicas": (V3, (*TP2, "-dp", "2"), {}, {}, ()),
    "FlashComm v1": (V3, (*TP2, "-ep"), {}, {"enable_flashcomm1": True}, ()),
    "FlashComm v1, one gather": (
        QWEN,
        (*TP2, "-ep"),
        {},
        {"enable_flashcomm1": True},
        ("gathers once", "turn vllm-ascend's off"),
    ),
    "sparse": (V32, TP2, {}, {}, ()),
    "rows cut for attention too": (
        V32,
        (*TP2, "-ep"),
        {},
        {"enable_flashcomm1": True, "enable_dsa_cp": True},
        ("each rank projects its own rows", "turn enable_dsa_cp off"),
    ),
    "EPLB": (V3, (*TP2, "-ep"), {}, {"eplb_config": {"dynamic_eplb": True}}, ()),
    "EPLB, placed": (
        V3,
        (*TP2, "-ep"),
        {},
        {"eplb_config": {"expert_map_path": "/map.json"}},
        ("(expert_map_path)", "or use dynamic_eplb"),
    ),
    "EPLB, copies": (
        V3,
        (*TP2, "-ep"),
        {},
        {"eplb_config": {"dynamic_eplb": True, "num_redundant_experts": 2}},
        ("(num_redundant_experts)", "set num_redundant_experts to 0"),
    ),
    "shared experts on a stream": (V3, TP2, {}, {"multistream_overlap_shared_expert": True}, ()),
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
    "default graphs": (V3, GRAPHS, {}, {}, ()),
    "both": (V3, (*GRAPHS, *MTP, "-cc.cudagraph_mode=FULL_DECODE_ONLY"), {}, {}, ()),
    "other drafts": (V3, (*TP2, *NGRAM), {}, {}, ("drafts of ngram", "use mtp")),
    "qkv divided": (QWEN, TP2, {}, {}, ()),
    "prefill node": (V3, (*TP2, *SENDS), {}, {}, ()),
    "decode node": (V3, (*TP2, *TAKES), {}, {}, ("that only decodes", "in the engine that prefills")),
    "both roles": (V3, (*TP2, *BOTH), {}, {}, ("not verified as kv_both", "use kv_producer")),
    "no wide projection": (LITE, TP2, {}, {}, ("without q_lora_rank",)),
    "quantised": (f"{V3}-w8a8", TP2, {}, {}, ()),
    "quantised experts": (f"{V3}-w4a8", TP2, {}, {}, ()),
    "quantised experts alone": (f"{QWEN}-w4a8", TP2, {}, {}, ("'W4A8_DYNAMIC'", "use W8A8_DYNAMIC")),
    "quantised otherwise": (
        f"{V3}-w4a4",
        TP2,
        {},
        {},
        ("'W4A4_MXFP4'", "use W8A8_DYNAMIC"),
    ),
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


def test_rows_that_are_sent_by_one_kernel_are_refused() -> None:
    """With expert parallelism an A3 sends rows by MC2 and all-to-all, or where that is asked for by fused MC2."""
    assert not judged(V3, (*TP2, "-ep"), {}, {}, "A3").reasons
    (reason,) = judged(V3, (*TP2, "-ep"), {}, {"enable_fused_mc2": 1}, "A3").reasons
    assert "by FUSED_MC2" in str(reason) and "turn enable_expert_parallel off" in str(reason)


def description(linear: str, experts: str) -> dict[str, str]:
    """Of a checkpoint, as ModelSlim writes it."""
    return {
        "model_quant_type": "W8A8_DYNAMIC",
        "model.embed_tokens.weight": "FLOAT",
        "model.layers.0.self_attn.q_a_proj.weight": linear,
        "model.layers.0.self_attn.q_a_proj.weight_scale": linear,
        "model.layers.1.mlp.experts.0.up_proj.weight": experts,
    }


@pytest.mark.parametrize(
    ("quantization", "described", "named"),
    [
        (None, None, None),
        ("ascend", description("W8A8_DYNAMIC", "W8A8_DYNAMIC"), None),
        ("ascend", description("FLOAT", "W4A8_DYNAMIC"), None),
        # the scale of a whole tensor, which nobody has run
        ("ascend", description("W8A8", "W8A8_DYNAMIC"), "'W8A8'"),
        ("ascend", description("W4A8_DYNAMIC", "W4A16"), "'W4A16' and 'W4A8_DYNAMIC'"),
        ("ascend", None, "'ascend'"),
        ("fp8", None, "'fp8'"),
    ],
)
def test_weights_are_judged_by_the_checkpoints_description(
    quantization: str | None, described: dict[str, str] | None, named: str | None
) -> None:
    (rule,) = (rule for rule in RULES if rule.setting == "quantization")
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(quantization=quantization, architectures=["DeepseekV3ForCausalLM"]),
        quant_config=None if described is None else SimpleNamespace(quant_description=described),
    )
    deployment = Deployment(
        vllm_config,
        ExtConfig(),
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(name="vllm-ascend"),  # type: ignore[arg-type]
    )
    found = rule.check("attn_scatter", deployment)
    assert (found is None) == (named is None)
    assert found is None or f"layers whose weights are {named}; use W8A8_DYNAMIC" in str(found)


def test_all_reasons_are_said_at_once() -> None:
    options = ("-tp", "2", "-dp", "2", "-ep", "-cc.cudagraph_mode=FULL", *TAKES, *NGRAM)
    ours = {"full": True}
    theirs = {"enable_flashcomm1": True, "enable_fused_mc2": 1}
    reasons = judged(f"{V3}-w4a4", options, ours, theirs, "A3").reasons
    assert len(reasons) >= 6
    assert len({str(reason) for reason in reasons}) == len(reasons)
