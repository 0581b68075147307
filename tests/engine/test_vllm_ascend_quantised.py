# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend with W8A8_DYNAMIC weights on the emulator, against transformers with the same integer arithmetic,
and the expert load of quantised layers against its routers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.eplb_load.test_engine import assert_equals_transformers
from tests.support.quantised import integer_network, write_w8a8
from tests.support.reference import make_prompts, transformers_tokens, write_model
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout

pytestmark = [
    pytest.mark.emulator,
    pytest.mark.engine,
    pytest.mark.usefixtures("vllm_preloaded"),
]

NUM_TOKENS = 12
SETTINGS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
# small steps, so that prompts are prefilled in chunks and requests join and leave the batch
ENGINE = {"max_num_batched_tokens": 48, "max_num_seqs": 4, "enable_prefix_caching": False}
LOAD = {"eplb_load": {"enabled": True, "interval": 3}}
DEADLINE_S = 240


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:6]


@pytest.fixture(scope="module")
def w8a8(tmp_path_factory: pytest.TempPathFactory, tiny_model: str, vllm_preloaded: None) -> str:
    folder = tmp_path_factory.mktemp("float")
    return write_w8a8(
        write_model(folder, tiny_model, "Qwen3MoeConfig", **SETTINGS), tmp_path_factory.mktemp("w8a8")
    )


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has vllm-ascend take quantised models with float32 activations, in which tokens can be compared; the ranks
    are forks of this process."""
    from vllm_ascend.quantization.modelslim_config import AscendModelSlimConfig

    dtypes = [torch.int8, torch.float16, torch.bfloat16, torch.float32]
    monkeypatch.setattr(AscendModelSlimConfig, "get_supported_act_dtypes", classmethod(lambda cls: dtypes))


@pytest.mark.parametrize(
    ("layout", "expert_parallel", "extension"),
    [(Layout(), False, None), (Layout(tp=2), False, LOAD), (Layout(tp=2), True, LOAD)],
    ids=["TP1, theirs", "TP2, load", "TP2+EP, load"],
)
def test_tokens_and_load_equal_integer_reference(
    w8a8: str,
    prompts: list[list[int]],
    layout: Layout,
    expert_parallel: bool,
    extension: dict[str, Any] | None,
) -> None:
    """Each rank quantises its own part of what enters a projection that TP splits by its input."""

    def num_shards(name: str) -> int:
        splits_input = "o_proj" in name or ("down_proj" in name and not expert_parallel)
        return layout.tp if splits_input else 1

    network = integer_network(num_shards)
    case = EngineCase(w8a8, layout, expert_parallel=expert_parallel, ascend_ext=extension, engine_args=ENGINE)
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=DEADLINE_S)
    assert result.token_ids == transformers_tokens(w8a8, prompts, NUM_TOKENS, network)
    if extension is not None:
        assert_equals_transformers(w8a8, prompts, result, network)
