# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from vllm_ascend_ext.eplb_load.heatmap.heatmap import layer_label
from vllm_ascend_ext.tools.demo.input import DemoOptions
from vllm_ascend_ext.tools.demo.report import build_document, compare
from vllm_ascend_ext.tools.demo.run import exit_status
from vllm_ascend_ext.tools.demo.summary import comparison_line
from vllm_ascend_ext.tools.engine import Completion, EngineCase, EngineResult, RankResult
from vllm_ascend_ext.tools.forked_ranks import Layout


def four_ranks():
    """Four ranks, TP 2 x DP 2: TP ranks repeat their replica's metrics, every rank counts its own rows."""

    def rank(index):
        replica = index // 2
        load = {
            "layers": ["model.layers.1.mlp.experts"],
            "top_k": 2,
            "num_tokens": 2,
            "load_LE": [[4 - index, index]],
        }
        return RankResult(
            tp_rank=index % 2,
            completions=(Completion(replica, (1, 2, 3), "text"),),
            start_seconds=1.0 + index,
            generate_seconds=2.0,
            metrics={
                "vllm:spec_decode_num_drafts": 10 * (replica + 1),
                "vllm:spec_decode_num_accepted_tokens_per_pos": [6 * (replica + 1), 3],
            },
            report={
                "rank": index,
                "eplb_load": {
                    "has_handovers": index == 0,
                    "load": [{"model": model, **load} for model in ("target", "draft")],
                },
                "traffic": {"ep:0": {"all_reduce_": {"calls": 1, "rows": 2, "bytes": 3}}},
            },
        )

    return EngineResult(EngineCase("m", Layout(2, 2)), tuple(rank(index) for index in range(4)))


def test_document(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.23.0")
    options = DemoOptions(Path("m"), prompts=("a", "b"), tp=2, dp=2, num_speculative_tokens=2)
    result = four_ranks()
    document = build_document(options, result, result, 4.0)
    assert json.loads(json.dumps(document)) == document
    assert document["mtp"] == {
        "num_drafts": 30,
        "accepted": [18, 6],
        "acceptance_rate": [0.6, 0.2],
        "tokens_per_round": 1.8,
    }
    target, draft = document["layers"]
    assert target["load"] == [10, 6] and target["num_tokens"] == 8 and not target["draft"]
    assert draft["draft"] and layer_label(draft["name"], draft["draft"]) == "layer 1 (draft)"
    assert target["expert_imbalance"] == 10 / 8 and target["rank_imbalance"] == 10 / 4
    assert document["seconds"] == {"load_vllm": 4.0, "start": 4.0, "generate": 2.0}
    assert document["num_generated_tokens"] == 6 and document["tokens_per_second"] == 3.0
    assert [row["rank"] for row in document["traffic"]] == [0, 1, 2, 3]
    assert document["comparison"]["same_tokens"] and document["comparison"]["num_same"] == 2
    assert document["busiest_experts"][0]["expert"] == 0

    plain = build_document(
        DemoOptions(Path("m"), prompts=("a", "b"), tp=2, dp=2, expert_parallel=False, num_speculative_tokens=0),
        result,
        None,
        4.0,
    )
    assert plain["mtp"] is None and plain["comparison"] is None
    assert plain["layers"][0]["rank_imbalance"] is None


@pytest.mark.parametrize(
    ("ours", "position", "token", "reference_token"),
    [((1, 2, 4), 2, 4, 3), ((1, 2), 2, None, 3), ((1, 2, 3, 4), 3, 4, None), ((9,), 0, 9, 1)],
)
def test_first_difference(ours, position, token, reference_token):
    comparison = compare([(5,), ours, ()], [(5,), (1, 2, 3), ()])
    assert (comparison["same_tokens"], comparison["num_same"], comparison["num_prompts"]) == (False, 2, 3)
    expected = {"prompt": 1, "position": position, "token": token, "reference_token": reference_token}
    assert comparison["first_difference"] == expected


def test_a_difference_fails_in_float32_and_is_explained_in_bfloat16():
    comparison = compare([(1,)], [(2,)])
    comparison["first_difference"] |= {"token_text": "x", "reference_token_text": "y"}
    for dtype, status in (("float32", 1), ("bfloat16", 0)):
        document = {
            "comparison": comparison,
            "layout": {"dtype": dtype},
            "completions": [{"prompt": "def "}],
        }
        assert exit_status(document) == status
        line = comparison_line(document)
        assert "0 of 1 prompts" in line and "prompt 0 ('def ') at position 0: token 1 'x' instead of 2 'y'" in line
        assert ("no failure" in line) == (status == 0)
    assert exit_status({"comparison": None, "layout": {"dtype": "float32"}}) == 0
