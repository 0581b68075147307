# SPDX-License-Identifier: Apache-2.0
"""Lists small engines as published commands have them: with quantised weights and drafts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.engines.apart import A2_SOC, A3_SOC
from tests.support.engines.bfloat16 import write_bfloat16
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
BLOCK_SIZE = 128  # vllm-ascend's, of the KV cache
PRODUCER, CONSUMER = "kv_producer", "kv_consumer"
FLASHCOMM = "enable_flashcomm1"
SHARED_DP = "enable_shared_expert_dp"
ONE, TP2, DP2, DP2XTP2 = Layout(), Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)
IN_BFLOAT16 = "Qwen3-MoE in bfloat16"


@dataclass(frozen=True)
class Case:
    """Describes an engine, or a producer of KV caches and their consumer.

    model: its name in `Models`. is_eagle: drafts are those of EAGLE-3, else of the model's MTP layer.
    row_split: FLASHCOMM, SHARED_DP, or none. roles: of KV transfer; a producer runs eager with one draft, as the
    published ones do, with the row split, which its consumer leaves out where `consumer_splits` says no.
    num_captured: requests of the largest captured decode step; a step of more is eager, and on an A3 too large for
    MC2. has_large_steps: those, or of prompts. splits_experts: each rank has a slice of every expert, without EP.
    has_keys_apart: the ranks of TP share the keys of decode steps out among them, by context parallelism.
    fused_mc2: vllm-ascend's `enable_fused_mc2`, whose mode 2 an A2 does not take.
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
    num_captured: int = 4
    has_large_steps: bool = True
    splits_experts: bool = False
    has_keys_apart: bool = False
    fused_mc2: int = 0

    @property
    def ways(self) -> set[str]:
        """Returns how rows go to their experts."""
        if not self.has_expert_parallel or self.soc != A3_SOC:
            return {"AllGather"}
        if self.fused_mc2:
            return {"FusedMC2"}
        return {"MC2", "All2AllV"} if self.has_large_steps else {"MC2"}

    @property
    def has_expert_parallel(self) -> bool:
        return self.layout.num_ranks > 1 and not self.splits_experts

    @property
    def top_k(self) -> int:
        return 4 if self.model.startswith("DeepSeek") else 2

    def part(self, role: str) -> Case:
        """Returns the engine of one role."""
        if role == PRODUCER:
            return replace(self, drafts=min(1, self.drafts), is_in_graphs=False)
        if role == CONSUMER:
            row_split = self.row_split if self.consumer_splits else ""
            return replace(self, row_split=row_split, has_large_steps=self.num_captured < ENGINE["max_num_seqs"])
        return self


PD = (PRODUCER, CONSUMER)
CASES = {
    # drafts of EAGLE-3, by a dense model
    "GQA eagle3": Case("Qwen3-MoE W8A8", row_split=FLASHCOMM),
    "GQA eagle3 PD": Case("Qwen3-MoE W8A8", row_split=FLASHCOMM, roles=PD),
    "GQA eagle3, fused MC2": Case("Qwen3-MoE W8A8", row_split=FLASHCOMM, fused_mc2=1),
    # shared experts by data parallelism
    "MLA shared-expert DP": Case("DeepSeek W8A8", is_eagle=False, row_split=SHARED_DP),
    "GQA shared-expert DP PD": Case(
        "GLM-4-MoE W8A8", is_eagle=False, row_split=SHARED_DP, roles=PD, consumer_splits=True
    ),
    # routed experts in int4
    "MLA W4A8 eagle3": Case("DeepSeek W4A8", row_split=FLASHCOMM),
    "MLA W4A8 eagle3 PD": Case("DeepSeek W4A8", row_split=FLASHCOMM, roles=PD),
    "MLA W4A8 eagle3 DP2 PD": Case("DeepSeek W4A8", DP2, roles=PD, num_captured=2),
    "sparse MLA W4A8 PD": Case("DeepSeek-V3.2 W4A8", is_eagle=False, row_split=FLASHCOMM, roles=PD),
    # without shared experts, so that what int4 experts give is bfloat16 and so all has to be
    "GQA W4A8 eagle3 on TP2": Case(f"{IN_BFLOAT16} W4A8", TP2, row_split=FLASHCOMM),
    "GQA W4A8 on TP2": Case(f"{IN_BFLOAT16} W4A8", TP2, drafts=0),
    "GQA W4A8 on TP2, no EP": Case(f"{IN_BFLOAT16} W4A8", TP2, drafts=0, splits_experts=True),
    "GQA W4A8 eagle3": Case(f"{IN_BFLOAT16} W4A8", ONE),
    "sparse MLA mtp 2 PD": Case("DeepSeek-V3.2 W8A8", drafts=2, is_eagle=False, roles=PD, num_captured=2),
    "sparse MLA mtp 5 DCP2 PD": Case(
        "DeepSeek-V3.2 W8A8",
        drafts=5,
        is_eagle=False,
        row_split=FLASHCOMM,
        roles=PD,
        num_captured=2,
        has_keys_apart=True,
    ),
    "GQA PD": Case("Qwen3-MoE W8A8", drafts=0, row_split=FLASHCOMM, roles=PD, num_captured=2),
    # on an A2, where rows are gathered
    "MLA W4A8 eagle3 PD, A2": Case("DeepSeek W4A8", row_split=FLASHCOMM, roles=PD, soc=A2_SOC),
    "GQA PD, fused MC2 on an A2": Case(
        "Qwen3-MoE W8A8", drafts=0, row_split=FLASHCOMM, roles=PD, consumer_splits=True, soc=A2_SOC, fused_mc2=2
    ),
    "sparse MLA W4A8 mtp 5 PD, A2": Case("DeepSeek-V3.2 W4A8", drafts=5, is_eagle=False, roles=PD, soc=A2_SOC),
    "MLA shared-expert DP, A2": Case("DeepSeek W8A8", is_eagle=False, row_split=SHARED_DP, soc=A2_SOC),
}
# run with the second pair, in its nightly step
LATER = {"GQA eagle3, fused MC2", "MLA shared-expert DP, A2", "sparse MLA W4A8 PD"}


class Models(dict[str, str]):
    """Holds the folders of checkpoints by name, each written when it is first asked for into one of `folder`;
    drafters are "eagle3 of" a model."""

    def __init__(self, folder: Path, tiny_model: str) -> None:
        super().__init__({"DeepSeek": tiny_model})
        self._folder = folder

    def __missing__(self, name: str) -> str:
        folder = self._folder / name.replace(" ", "-")
        folder.mkdir()
        self[name] = self._write(name, folder)
        return self[name]

    def _write(self, name: str, folder: Path) -> str:
        if name.startswith("eagle3 of "):
            return write_eagle3(folder, self[name.removeprefix("eagle3 of ")])
        model, _, weights = name.rpartition(" ")
        if weights in _QUANTISE:
            return _QUANTISE[weights](self[model], folder)
        if name == IN_BFLOAT16:
            return write_bfloat16(self["Qwen3-MoE"], folder)
        if name == "DeepSeek-V3.2":
            return write_sparse(self["DeepSeek"], folder, name)
        return {"Qwen3-MoE": write_qwen3_moe, "GLM-4-MoE": write_glm4_moe}[name](folder, self["DeepSeek"])


_QUANTISE = {"W8A8": write_w8a8, "W4A8": write_w4a8}


def engine_of(case: Case, models: dict[str, str], role: str, folder: Path) -> EngineCase:
    """Returns the engine of one role. folder: of the KV caches."""
    case = case.part(role)
    extension: dict[str, Any] = {
        "eplb_load": {"enabled": True, "interval": 3},
        "mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0},
    }
    splits: dict[str, Any] = {case.row_split: True} if case.row_split else {}
    settings: dict[str, Any] = {
        "async_scheduling": case.is_async,
        "additional_config": {"ascend_ext": extension} | splits,
    }
    if case.fused_mc2:
        settings["additional_config"] |= {"enable_fused_mc2": case.fused_mc2}
        settings["max_num_batched_tokens"] = 256  # MC2 takes 512 a rank at most
    if case.has_keys_apart:
        settings["decode_context_parallel_size"] = case.layout.tp
        settings["cp_kv_cache_interleave_size"] = BLOCK_SIZE
    if role:
        settings["kv_transfer_config"] = transfer(role, folder)
    if case.is_in_graphs:
        tokens = decode_tokens(case.drafts)  # of a request in a decode step
        sizes = sorted({2 * tokens, case.num_captured * tokens})
        graphs = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sizes}
        settings |= {"enforce_eager": False, "compilation_config": graphs}
    if case.is_eagle and case.drafts:
        drafter = {"method": "eagle3", "model": models[f"eagle3 of {case.model.rpartition(' ')[0]}"]}
        settings["speculative_config"] = drafter | {"num_speculative_tokens": case.drafts}
    return EngineCase(
        models[case.model],
        case.layout,
        expert_parallel=case.has_expert_parallel,
        num_speculative_tokens=0 if case.is_eagle else case.drafts,
        ascend_ext=extension,
        dtype="bfloat16" if case.model.startswith(IN_BFLOAT16) else "float32",
        engine_args=ENGINE | settings,
    )


def without_features(engine: EngineCase) -> EngineCase:
    """Returns the same engine as vllm-ascend has it."""
    given = engine.engine_args
    additional = {name: value for name, value in given["additional_config"].items() if name != "ascend_ext"}
    return replace(engine, ascend_ext=None, engine_args=given | {"additional_config": additional})
