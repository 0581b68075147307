# SPDX-License-Identifier: Apache-2.0
"""Tokens with scattered attention input equal those of vLLM's own layers, whatever the rows of a step."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from tests.engine.test_models import MODELS
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts, write_model
from vllm_ascend_ext.attn_scatter import cost as scatter_cost
from vllm_ascend_ext.attn_scatter.layer_cost import LayerSizes
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_PROMPTS, NUM_TOKENS, LONGEST = 64, 8, 300
LAYOUTS = {"TP2": Layout(tp=2), "DP2xTP2": Layout(tp=2, dp=2), "DP2xTP2+EP": Layout(tp=2, dp=2)}
NEVER = 1 << 30
# steps of at most 95 rows, an odd number: most prompts are prefilled in chunks, beside others that decode
ENGINE_ARGS = {"max_num_batched_tokens": 95, "max_num_seqs": 24, "enable_prefix_caching": False}


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    """64 prompts of 1 to 300 tokens, most of odd length."""
    tokens = [token for prompt in make_prompts(tiny_model) for token in prompt]
    lengths = [1, 2, 3, LONGEST, *random.Random(5).sample(range(1, LONGEST, 2), NUM_PROMPTS - 4)]
    return [[tokens[(i * 97 + j) % len(tokens)] for j in range(length)] for i, length in enumerate(lengths)]


def _set(worker: Any, min_tokens: int, uneven: bool) -> None:
    model = worker.bound_features["attn_scatter"].model
    model.min_tokens, model.exchange.uneven = min_tokens, uneven


def _generate(llm: Any, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def _split(layout: Layout, num_prompts: int) -> list[int]:
    """Prompts of each replica: with two, one is soon idle and only keeps step."""
    return [num_prompts - 3 * (layout.dp - 1), *[3] * (layout.dp - 1)]


def _phases(
    case: EngineCase, prompts: list[list[int]], settings: list[tuple[int, bool]]
) -> list[list[dict[str, Any]]]:
    """Completes `prompts` once with each (threshold, whether odd rows make uneven shards), in one engine:
    [rank][setting] of prompts' indices, tokens and report."""
    counts = _split(case.layout, len(prompts))

    def job(rank: Rank) -> list[dict[str, Any]]:
        from vllm import LLM

        begin = sum(counts[: rank.dp_rank])
        own = slice(begin, begin + counts[rank.dp_rank])
        llm = LLM(**case.llm_arguments())
        phases = []
        for setting in settings:
            llm.collective_rpc(_set, args=setting)
            llm.collective_rpc("ascend_ext_report", kwargs={"reset": True})
            tokens = _generate(llm, prompts[own])
            phases.append({"own": own, "tokens": tokens, **llm.collective_rpc("ascend_ext_report")[0]})
        return phases

    return run_ranks(job, case.layout, deadline_s=400)


def _case(model: str, layout: str, num_speculative_tokens: int, features: dict[str, Any] | None) -> EngineCase:
    return EngineCase(
        model,
        LAYOUTS[layout],
        expert_parallel="EP" in layout,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=features,
        engine_args=ENGINE_ARGS,
    )


def _features(*, full: bool, gather: bool = False, odd_rows: str = "pad") -> dict[str, Any]:
    """gather: the DP gather too."""
    scatter = {"enabled": True, "full": full, "min_tokens": 1, "odd_rows": odd_rows}
    return {"attn_scatter": scatter, "eplb_load": {"enabled": True}} | (
        {"dp_gather": {"enabled": True}} if gather else {}
    )


def _check_phase(phase: dict[str, Any], expected: list[tuple[int, ...]]) -> None:
    """These tokens, from shards, which sent what was foretold, and odd rows went the way that was set."""
    report, traffic = phase["attn_scatter"], phase["traffic"]["attn_scatter"]
    assert report["num_scattered"] > 0
    assert phase["tokens"] == expected
    assert sum(counts["bytes"] for counts in traffic.values()) == report["predicted_bytes"]
    assert ("all_gather_variable" in traffic) == (report["odd_rows"] == "uneven")


@pytest.mark.parametrize(("layout", "full"), [("TP2", False), pytest.param("DP2xTP2+EP", True, marks=long_table)])
def test_tokens_bytes_and_load(tiny_model: str, prompts: list[list[int]], layout: str, full: bool) -> None:
    """Beside vLLM's own layers in the same engine, with MTP; with replicas the DP gather too."""
    features = _features(full=full, gather="DP2" in layout, odd_rows="uneven")
    ranks = _phases(_case(tiny_model, layout, 2, features), prompts, [(NEVER, True), (1, True), (40, False)])
    for plain, always, some in ranks:
        assert plain["attn_scatter"]["num_scattered"] == 0 and not plain["traffic"]["attn_scatter"]
        assert always["attn_scatter"]["num_plain"] == 0
        assert some["attn_scatter"]["num_plain"] > 0
        for phase in (always, some):
            _check_phase(phase, plain["tokens"])
    plain_load, *others = (_target_load([rank[i] for rank in ranks]) for i in range(3))
    assert others == [plain_load] * 2


def _target_load(phases: list[dict[str, Any]]) -> list[list[int]]:
    """Tokens routed to each expert of the target model in one phase, over all ranks."""
    loads = [phase["eplb_load"]["load"][0]["load_LE"] for phase in phases]
    return [[sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(*loads, strict=True)]


@long_table
@pytest.mark.parametrize(
    ("layout", "num_speculative_tokens", "ways"),
    [
        pytest.param("TP2", 0, [(False, False), (True, False)], id="TP2-plain"),
        pytest.param("TP2", 2, [(False, False), (True, False)], id="TP2-mtp"),
        pytest.param("DP2xTP2+EP", 0, [(False, False), (True, True)], id="DP2xTP2+EP-plain"),
        pytest.param("DP2xTP2+EP", 2, [(True, False), (False, True)], id="DP2xTP2+EP-mtp"),
        pytest.param("DP2xTP2", 0, [(True, False)], id="DP2xTP2-plain"),
    ],
)
def test_tokens_of_a_plain_engine(
    tiny_model: str,
    prompts: list[list[int]],
    layout: str,
    num_speculative_tokens: int,
    ways: list[tuple[bool, bool]],
) -> None:
    """Beside an engine of the same layout without us. ways: (full, with the DP gather too)."""
    plain = run_engine(
        _case(tiny_model, layout, num_speculative_tokens, None),
        prompts,
        max_tokens=NUM_TOKENS,
        deadline_s=300,
        split=_split(LAYOUTS[layout], len(prompts)),
    ).token_ids
    for full, gather in ways:
        case = _case(tiny_model, layout, num_speculative_tokens, _features(full=full, gather=gather))
        for phases in _phases(case, prompts, [(1, False), (40, True)]):
            for phase in phases:
                _check_phase(phase, plain[phase["own"]])


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=long_table)])
def test_eplb_moves_experts_meanwhile(tiny_model: str, prompts: list[list[int]], full: bool) -> None:
    """From 16 rows on, against a plain engine."""
    eplb = {
        "enable_eplb": True,
        "eplb_config": {"window_size": 8, "step_interval": 8, "num_redundant_experts": 2, "use_async": False},
    }
    plain = EngineCase(
        tiny_model, Layout(tp=2), expert_parallel=True, num_speculative_tokens=2, engine_args=ENGINE_ARGS
    )
    ours = dataclasses.replace(
        plain,
        ascend_ext={"attn_scatter": {"enabled": True, "full": full, "min_tokens": 16}},
        engine_args=ENGINE_ARGS | eplb,
    )
    expected, result = (run_engine(x, prompts, max_tokens=NUM_TOKENS, deadline_s=300) for x in (plain, ours))
    assert result.token_ids == expected.token_ids
    report = result.ranks[0].report
    assert report is not None and report["attn_scatter"]["num_scattered"] > 0
    assert report["placements"]["target"] != [sorted(range(16)) + [0, 1]] * 2


@long_table
@pytest.mark.parametrize("layout", ["TP2", "DP2xTP2+EP"])
def test_a_plain_qkv_projection(
    tiny_model: str, prompts: list[list[int]], layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Qwen3-MoE: the gather comes before the projection."""
    model = write_model(
        tmp_path_factory.mktemp("qwen"), tiny_model, *MODELS["Qwen3-MoE"][:1], **MODELS["Qwen3-MoE"][1]
    )
    for full in (False, True):
        case = _case(model, layout, 0, _features(full=full))
        for plain, always in _phases(case, prompts[:24], [(NEVER, False), (1, full)]):
            num_requests = len(plain["tokens"])  # of one replica
            assert len(set(plain["tokens"])) > min(4, num_requests - 1)
            _check_phase(always, plain["tokens"])


@long_table
def test_the_cost_models_threshold(
    tiny_model: str, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nobody sets `min_tokens`. The tiny model never has one, for its latent is wider than its hidden state; this
    one has 128 columns and gathers 24 + 32 + 8."""
    latent = {"q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 8}
    heads = {"qk_nope_head_dim": 16, "v_head_dim": 16}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    more = {"moe_intermediate_size": 64, "first_k_dense_replace": 1, "topk_method": "noaux_tc"}
    model = write_model(
        tmp_path_factory.mktemp("latent"), tiny_model, "DeepseekV3Config", **latent, **heads, **experts, **more
    )
    plain = EngineCase(model, Layout(tp=2), engine_args=ENGINE_ARGS | {"max_num_batched_tokens": 1023})
    ours = dataclasses.replace(plain, ascend_ext={"attn_scatter": {"enabled": True}})
    expected, result = (run_engine(x, prompts, max_tokens=NUM_TOKENS, deadline_s=300) for x in (plain, ours))
    assert result.token_ids == expected.token_ids and len(set(expected.token_ids)) > NUM_PROMPTS // 2
    dense = LayerSizes(hidden=128, gathered=sum(latent.values()), element_bytes=4)
    threshold = scatter_cost.min_tokens([dense, dense], 2, scatter_cost.RATES["cpu"])
    assert threshold is not None and 300 < threshold < 1000
    for rank in result.ranks:
        assert rank.report is not None
        report, traffic = rank.report["attn_scatter"], rank.report["traffic"]["attn_scatter"]
        assert report["min_tokens"] == threshold
        assert report["num_scattered"] > 0 and report["num_plain"] > 0
        assert sum(counts["bytes"] for counts in traffic.values()) == report["predicted_bytes"]


@long_table
def test_fp8_wire_changes_few_tokens(tiny_model: str, prompts: list[list[int]]) -> None:
    """It is not exact; most first tokens stay, and the bytes are those predicted."""
    case = EngineCase(
        tiny_model,
        Layout(tp=2),
        ascend_ext={"attn_scatter": {"enabled": True, "full": True, "fp8_wire": True, "min_tokens": 1}},
        engine_args=ENGINE_ARGS,
    )
    for plain, always in _phases(case, prompts, [(NEVER, False), (1, False)]):
        same = sum(a[0] == b[0] for a, b in zip(plain["tokens"], always["tokens"], strict=True))
        assert 0.8 * len(prompts) <= same
        assert plain["tokens"] != always["tokens"]  # or the wire was not used
        sent = sum(counts["bytes"] for counts in always["traffic"]["attn_scatter"].values())
        assert sent == always["attn_scatter"]["predicted_bytes"] > 0
