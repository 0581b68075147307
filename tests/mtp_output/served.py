# SPDX-License-Identifier: Apache-2.0
"""Lists vllm-ascend's engines, as they are served, whose frames are looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.engines.file_connector import transfer
from tests.support.saved_output import next_instance
from vllm_ascend_ext.drafts import decode_tokens
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

NUM_TOKENS = 12
# small steps, so that prompts are prefilled in chunks and requests join and leave the batch
ENGINE: dict[str, Any] = {"max_num_batched_tokens": 64, "max_num_seqs": 4, "enable_prefix_caching": False}
PD, BOTH_ROLES, PRODUCER = "producer, consumer", "both", "kv_producer"
RECOMPUTE = {"recompute_scheduler_enable": True}
BALANCE = {"enable_balance_scheduling": True}
FLASHCOMM = {"enable_flashcomm1": True}
DCP = {"decode_context_parallel_size": 2}
FULL, BOTH = "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"
ONE, TP2, DP2, TP2DP2 = Layout(), Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)


@dataclass(frozen=True)
class Case:
    """Describes an engine.

    model: DeepSeek, whose drafts are of its MTP layer, Qwen3-MoE, with an EAGLE-3 drafter, or W8A8, of the latter.
    mode: of graphs; None: eager, as producers of KV caches always are.
    transfer: a producer, whose caches a consumer then loads, or one that is both.
    producer_drafts: of the producer, if not as many as the consumer's.
    soc: A2, or A3 with its own choice of dispatches. ways: those that are to be seen there.
    """

    model: str
    layout: Layout
    drafts: int = 0
    mode: str | None = None
    is_async: bool = True
    expert_parallel: bool = True
    transfer: str = ""
    producer_drafts: int = 0
    soc: str = "A2"
    ways: tuple[str, ...] = ("MC2", "All2AllV")
    additional: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def is_apart(self) -> bool:
        """Returns whether it needs another SoC, or more NPUs, than the emulator has in the tests' process."""
        return self.soc != "A2" or self.layout.num_ranks > 2

    def part(self, role: str) -> Case:
        """Returns the engine of one role of KV transfer."""
        if role != PRODUCER:
            return self
        additional = {name: value for name, value in self.additional.items() if name not in RECOMPUTE}
        drafts = self.producer_drafts or self.drafts
        return replace(self, mode=None, drafts=drafts, additional=additional)


CASES = {
    # one rank
    "1": Case("Qwen3-MoE", ONE, mode=FULL, transfer=BOTH_ROLES),
    "1 PD": Case("Qwen3-MoE", ONE, transfer=PD),
    "1 mtp1 PD": Case("DeepSeek", ONE, 1, is_async=False, transfer=PD),
    "1 eagle3 3": Case("Qwen3-MoE", ONE, 3, BOTH),
    # TP
    "TP2 without EP": Case("Qwen3-MoE", TP2, is_async=False, expert_parallel=False),
    "TP2 W8A8": Case("W8A8", TP2, mode=FULL, transfer=BOTH_ROLES),
    "TP2 mtp1": Case("DeepSeek", TP2, 1, additional=FLASHCOMM),
    "TP2 mtp2 PD": Case("DeepSeek", TP2, 2, transfer=PD),
    "TP2 eagle3 3": Case("Qwen3-MoE", TP2, 3, FULL),
    # DP
    "DP2 eagle3 3 PD": Case("Qwen3-MoE", DP2, 3, FULL, transfer=PD),
    # both
    "DP2xTP2": Case("Qwen3-MoE", TP2DP2, mode=FULL),
    "DP2xTP2 mtp3 A3": Case("DeepSeek", TP2DP2, 3, FULL, soc="A3", additional=BALANCE),
    # decode context parallelism, whose second pass of drafts fails in a step in which no request decodes
    "TP2 DCP2": Case("DeepSeek", TP2, arguments=DCP),
    # stages, each with an engine of its own
    "PP2": Case("Qwen3-MoE", Layout(pp=2), is_async=False),
}
PIPELINES = {
    "PP2 async": Case("Qwen3-MoE", Layout(pp=2)),
    "TP2xPP2": Case("Qwen3-MoE", Layout(tp=2, pp=2), mode=BOTH, is_async=False),
    # as it is served: vllm-ascend then has first tokens only, and tells the first stage of none
    "TP2xPP2 mtp3 async producer": Case("DeepSeek", Layout(tp=2, pp=2), 3, transfer="producer"),
}


def engine_of(case: Case, models: dict[str, str], role: str, folder: Path) -> EngineCase:
    case = case.part(role)
    extension = {"mtp_output": {"enabled": True, "instance": next_instance(), "deadline_s": 60.0}}
    settings: dict[str, Any] = {
        "async_scheduling": case.is_async,
        "additional_config": {"ascend_ext": extension, **case.additional},
        **case.arguments,
    }
    if role:
        settings["kv_transfer_config"] = transfer(role, folder)
    if case.mode is not None:
        tokens = decode_tokens(case.drafts)  # of a request in a decode step
        sizes = {"cudagraph_mode": case.mode, "cudagraph_capture_sizes": [2 * tokens, 4 * tokens]}
        settings |= {"enforce_eager": False, "compilation_config": sizes}
    if case.drafts and case.model != "DeepSeek":
        drafter = {"method": "eagle3", "model": models["eagle3"], "num_speculative_tokens": case.drafts}
        settings["speculative_config"] = drafter
    return EngineCase(
        models[case.model],
        case.layout,
        expert_parallel=case.expert_parallel and case.layout.num_ranks > 1,
        num_speculative_tokens=case.drafts if case.model == "DeepSeek" else 0,
        ascend_ext=extension,
        engine_args=ENGINE | settings,
    )
