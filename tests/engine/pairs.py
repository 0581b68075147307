# SPDX-License-Identifier: Apache-2.0
"""Lists engines in small that run pairs of what published deployments set.

Each is a class of deployments, with a row in `tools/check/verified/rows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.engines.apart import A2_SOC, A3_SOC
from tests.support.quantised import WHOLE_BY_FLASHCOMM, integer_network, split_by_tp
from tests.support.reference import float_network
from tests.support.saved_output import next_instance
from vllm_ascend_ext.tools.check.deployment_class import DeploymentClass
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

TP2, DP2, DP2_TP2 = Layout(tp=2), Layout(dp=2), Layout(tp=2, dp=2)


@dataclass(frozen=True)
class Case:
    """Describes an engine. mode: of its graphs, "" for none. row_split: FlashComm v1 is on."""

    family: str
    layout: Layout = Layout()
    mode: str = ""
    weights: str = "unquantised"
    drafts: int = 0
    row_split: bool = False
    soc: str = A3_SOC
    expert_parallel: bool = True
    is_async: bool = False

    def engine(self, model: str) -> EngineCase:
        features = {
            "eplb_load": {"enabled": True, "interval": 2, "deadline_s": 120.0},
            "mtp_output": {"enabled": True, "instance": next_instance()},
        }
        settings: dict[str, Any] = {
            "max_num_seqs": 4,
            "max_num_batched_tokens": 64,
            "enable_prefix_caching": False,
            "async_scheduling": self.is_async,
            "additional_config": {"ascend_ext": features, "enable_flashcomm1": self.row_split},
        }
        if self.mode:
            rows = 1 + self.drafts
            graphs = {"cudagraph_mode": self.mode, "cudagraph_capture_sizes": [2 * rows, 4 * rows]}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            model,
            self.layout,
            expert_parallel="EP" in self.deployment.layout,
            num_speculative_tokens=self.drafts,
            ascend_ext=features,
            engine_args=settings,
        )

    @property
    def deployment(self) -> DeploymentClass:
        """The class in which `check` puts it."""
        parallel = self.layout.num_ranks > 1 and self.expert_parallel
        kinds = {"DP": self.layout.dp > 1, "TP": self.layout.tp > 1, "EP": parallel}
        return DeploymentClass(
            family=self.family,
            graphs=self.mode or "eager",
            dispatch="MC2, ALLTOALL" if parallel and self.soc == A3_SOC else "ALLGATHER",
            weights=self.weights,
            layout="+".join(kind for kind, is_there in kinds.items() if is_there) or "1",
            row_split="FlashComm v1" if self.row_split else "none",
            drafts=f"mtp {self.drafts}" if self.drafts else "none",
            transfer="none",
        )

    @property
    def split(self) -> tuple[int, ...] | None:
        """Prompts of each replica, of which one is idle most of the time."""
        return (6, 1) if self.layout.dp > 1 else None

    def load_network(self, folder: str) -> Any:
        """Makes the network that the tokens are compared with."""
        if self.weights == "unquantised":
            return float_network(folder)
        return integer_network(split_by_tp(self.layout.tp, cut=self.row_split and WHOLE_BY_FLASHCOMM))(folder)


FULL, BOTH = "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"
CASES = {
    "MLA DP2xTP2 FULL_DECODE_ONLY W8A8 MTP3, cut": Case("MLA", DP2_TP2, FULL, "w8a8", 3, True),
    "MLA DP2xTP2 FULL_DECODE_ONLY W8A8 MTP3, cut, A2": Case("MLA", DP2_TP2, FULL, "w8a8", 3, True, A2_SOC),
    "MLA DP2xTP2 FULL_DECODE_ONLY W8A8 MTP5": Case("MLA", DP2_TP2, FULL, "w8a8", 5),
    "MLA DP2xTP2 W8A8 MTP1, cut": Case("MLA", DP2_TP2, "", "w8a8", 1, True),
    "MLA DP2 FULL_AND_PIECEWISE W8A8": Case("MLA", DP2, BOTH, "w8a8"),
    "MLA DP2 FULL_DECODE_ONLY MTP3": Case("MLA", DP2, FULL, drafts=3),
    "MLA TP2 FULL_DECODE_ONLY W8A8 MTP2": Case("MLA", TP2, FULL, "w8a8", 2),
    "GQA DP2xTP2 FULL_AND_PIECEWISE W8A8, cut": Case("GQA", DP2_TP2, BOTH, "w8a8", 0, True),
    "GQA DP2xTP2 FULL_DECODE_ONLY, async, A2": Case("GQA", DP2_TP2, FULL, soc=A2_SOC, is_async=True),
    "MLA FULL_AND_PIECEWISE W8A8 MTP1, A2": Case("MLA", Layout(), BOTH, "w8a8", 1, soc=A2_SOC),
    "MLA MTP3, A2": Case("MLA", Layout(), drafts=3, soc=A2_SOC),
    "GQA, A2": Case("GQA", Layout(), soc=A2_SOC),
    "GQA TP2 FULL_AND_PIECEWISE no EP, A2": Case("GQA", TP2, BOTH, soc=A2_SOC, expert_parallel=False),
    "GQA TP2 FULL_DECODE_ONLY no EP, A2": Case("GQA", TP2, FULL, soc=A2_SOC, expert_parallel=False),
}
# run with the second pair, in its nightly step
LATER = {
    "MLA DP2 FULL_AND_PIECEWISE W8A8",
    "MLA DP2xTP2 FULL_DECODE_ONLY W8A8 MTP3, cut",
    "MLA TP2 FULL_DECODE_ONLY W8A8 MTP2",
    "GQA DP2xTP2 FULL_DECODE_ONLY, async, A2",
}
