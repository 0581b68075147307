# SPDX-License-Identifier: Apache-2.0
"""Lists small engines as published commands have them: with quantised weights and drafts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.engines.apart import A2_SOC, A3_SOC
from tests.support.engines.eagle3 import write_eagle3
from tests.support.engines.file_connector import transfer
from tests.support.engines.glm4_moe import write_glm4_moe
from tests.support.engines.sparse import write_sparse
from tests.support.quantised import write_w4a8, write_w8a8
from tests.support.reference import write_qwen3_moe
from tests.support.saved_output import next_instance
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

NUM_TOKENS = 12
DEADLINE_S = 540
ENGINE: dict[str, Any] = {"max_num_seqs": 4, "enable_prefix_caching": False}
PRODUCER, CONSUMER = "kv_producer", "kv_consumer"
FLASHCOMM = "enable_flashcomm1"
SHARED_DP = "enable_shared_expert_dp"
DP2XTP2 = Layout(tp=2, dp=2)


@dataclass(frozen=True)
class Case:
    """Describes an engine, or a producer of KV caches and their consumer.

    model: its name in `write_models`. is_eagle: drafts are those of EAGLE-3, else of the model's MTP layer.
    row_split: FLASHCOMM, SHARED_DP, or none. roles: of KV transfer; a producer runs eager with one draft, as the
    published ones do, with the row split, which its consumer leaves out where `consumer_splits` says no.
    """

    model: str
    layout: Layout = DP2XTP2
    drafts: int = 3
    is_eagle: bool = True
    row_split: str = ""
    is_in_graphs: bool = True
    is_async: bool = True
    roles: tuple[str, ...] = ("",)
    consumer_splits: bool = False
    split: tuple[int, ...] = (5, 2)
    soc: str = A3_SOC

    @property
    def ways(self) -> set[str]:
        """Returns how rows may go to their experts."""
        return {"MC2", "All2AllV"} if self.layout.num_ranks > 1 and self.soc == A3_SOC else {"AllGather"}

    @property
    def top_k(self) -> int:
        return 4 if self.model.startswith("DeepSeek") else 2

    def part(self, role: str) -> Case:
        """Returns the engine of one role."""
        if role == PRODUCER:
            return replace(self, drafts=1, is_in_graphs=False)
        if role == CONSUMER and not self.consumer_splits:
            return replace(self, row_split="")
        return self


PD = (PRODUCER, CONSUMER)
CASES = {
    # drafts of EAGLE-3, by a dense model
    "GQA eagle3": Case("Qwen3-MoE W8A8", row_split=FLASHCOMM),
    "GQA eagle3 PD": Case("Qwen3-MoE W8A8", row_split=FLASHCOMM, roles=PD),
    # shared experts by data parallelism
    "MLA shared-expert DP": Case("DeepSeek W8A8", is_eagle=False, row_split=SHARED_DP),
    "GQA shared-expert DP PD": Case(
        "GLM-4-MoE W8A8", is_eagle=False, row_split=SHARED_DP, roles=PD, consumer_splits=True
    ),
    # routed experts in int4
    "MLA W4A8 eagle3": Case("DeepSeek W4A8", row_split=FLASHCOMM),
    "MLA W4A8 eagle3 PD": Case("DeepSeek W4A8", row_split=FLASHCOMM, roles=PD),
    "sparse MLA W4A8 PD": Case("DeepSeek-V3.2 W4A8", is_eagle=False, row_split=FLASHCOMM, roles=PD),
    # on an A2, where rows are gathered
    "MLA W4A8 eagle3 PD, A2": Case("DeepSeek W4A8", row_split=FLASHCOMM, roles=PD, soc=A2_SOC),
    "MLA shared-expert DP, A2": Case("DeepSeek W8A8", is_eagle=False, row_split=SHARED_DP, soc=A2_SOC),
}


def write_models(folder: Path, tiny_model: str) -> dict[str, str]:
    """Writes the checkpoints of all cases and returns their folders by name; drafters are "eagle3 of" a model."""

    def new(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    qwen = write_qwen3_moe(new("qwen3"), tiny_model)
    sparse = write_sparse(tiny_model, new("v32"), "DeepSeek-V3.2")
    return {
        "DeepSeek-V3.2 W4A8": write_w4a8(sparse, new("v32-w4a8")),
        "Qwen3-MoE W8A8": write_w8a8(qwen, new("qwen3-w8a8")),
        "DeepSeek W8A8": write_w8a8(tiny_model, new("deepseek-w8a8")),
        "DeepSeek W4A8": write_w4a8(tiny_model, new("deepseek-w4a8")),
        "GLM-4-MoE W8A8": write_w8a8(write_glm4_moe(new("glm4"), tiny_model), new("glm4-w8a8")),
        "eagle3 of Qwen3-MoE": write_eagle3(new("qwen3-eagle3"), qwen),
        "eagle3 of DeepSeek": write_eagle3(new("deepseek-eagle3"), tiny_model),
    }


def engine_of(case: Case, models: dict[str, str], role: str, folder: Path) -> EngineCase:
    """Returns the engine of one role. folder: of the KV caches."""
    case = case.part(role)
    extension: dict[str, Any] = {
        "eplb_load": {"enabled": True, "interval": 3},
        "mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0},
    }
    splits = {case.row_split: True} if case.row_split else {}
    settings: dict[str, Any] = {
        "async_scheduling": case.is_async,
        "additional_config": {"ascend_ext": extension} | splits,
    }
    if role:
        settings["kv_transfer_config"] = transfer(role, folder)
    if case.is_in_graphs:
        tokens = decode_tokens(case.drafts)  # of a request in a decode step
        graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [2 * tokens, 4 * tokens]}
        settings |= {"enforce_eager": False, "compilation_config": graphs}
    if case.is_eagle:
        drafter = {"method": "eagle3", "model": models[f"eagle3 of {case.model.rpartition(' ')[0]}"]}
        settings["speculative_config"] = drafter | {"num_speculative_tokens": case.drafts}
    return EngineCase(
        models[case.model],
        case.layout,
        expert_parallel=case.layout.num_ranks > 1,
        num_speculative_tokens=0 if case.is_eagle else case.drafts,
        ascend_ext=extension,
        engine_args=ENGINE | settings,
    )
