# SPDX-License-Identifier: Apache-2.0
"""Describes engines with scattered attention input as Atlas machines serve them, in small, and checks them.

Steps are of odd and of even numbers of rows, and of a single one. Quantised tokens are held to transformers with
the same integer arithmetic, ties apart; all others equal transformers'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attn_scatter.vllm_ascend.phases import NEVER, NUM_TOKENS, Phase, all_tokens, run, scattering
from tests.support.engines.apart import call_apart
from tests.support.engines.near_ties import TIE, TIE_BFLOAT16, follow
from tests.support.engines.sparse import ARCHITECTURES, write_sparse
from tests.support.engines.sparse import allow_float32 as allow_float32_cache
from tests.support.quantised import allow_float32, integer_network, split_by_tp, write_w4a8, write_w8a8
from tests.support.reference import QWEN3_MOE, make_prompts, transformers_tokens, write_model, write_qwen3_moe
from vllm_ascend_ext.tools.engine import EngineCase
from vllm_ascend_ext.tools.forked_ranks import Layout

# steps of at most 95 rows: prompts are prefilled in chunks, beside others that decode
ENGINE: dict[str, Any] = {
    "max_num_seqs": 4,
    "enable_prefix_caching": False,
    "async_scheduling": False,
}
THRESHOLDS = [NEVER, 1]
DEADLINE_S = 400
DP2XTP2 = Layout(tp=2, dp=2)
GRAPHS = (8, 16)  # a decode step has a token and three drafts of each request
ON_A_STREAM = {"multistream_overlap_shared_expert": True}
SIXTEEN = "Qwen3-MoE of sixteen ranks"  # heads and experts for each of them
_SIXTEEN = {"num_attention_heads": 16, "num_key_value_heads": 2, "num_experts": 32}
_QUANTISE = {"W8A8": write_w8a8, "W4A8": write_w4a8}  # by what stands behind a model's name


@dataclass(frozen=True)
class Case:
    """model: a family, with the widths of its weights where they are integers. capture_sizes: of decode steps'
    tokens; none: eager. graphs: the mode. split: prompts but the last of each replica. is_cut: FlashComm v1
    divides the rows. additional: further keys of vllm-ascend."""

    model: str = "DeepSeek"
    layout: Layout = Layout(tp=2)
    expert_parallel: bool = True
    drafts: int = 0
    capture_sizes: tuple[int, ...] = ()
    graphs: str = "FULL_DECODE_ONLY"
    split: tuple[int, ...] | None = None
    is_cut: bool = False
    additional: dict[str, Any] = field(default_factory=dict)

    @property
    def is_quantised(self) -> bool:
        return self.model.rpartition(" ")[2] in _QUANTISE

    @property
    def tie(self) -> float:
        """Returns by how much logits of tied tokens differ at most: what int4 experts give is rounded."""
        return TIE_BFLOAT16 if self.model.endswith("W4A8") else TIE

    def engine(self, folder: str) -> EngineCase:
        ascend = {"enable_flashcomm1": True} if self.is_cut else {}
        settings: dict[str, Any] = {
            "additional_config": {"ascend_ext": scattering(), **ascend, **self.additional},
            "max_num_batched_tokens": 96 if self.is_cut else 95,  # FlashComm v1: a number that the ranks divide
        }
        if self.capture_sizes:
            graphs = {"cudagraph_mode": self.graphs, "cudagraph_capture_sizes": list(self.capture_sizes)}
            settings |= {"enforce_eager": False, "compilation_config": graphs}
        return EngineCase(
            folder,
            self.layout,
            expert_parallel=self.expert_parallel,
            num_speculative_tokens=self.drafts,
            ascend_ext=scattering(),
            engine_args=ENGINE | settings,
        )


@dataclass
class Served:
    """Writes models when they are asked for, in new folders, and knows what they are to say.

    tiny_model: the trained one. new_folder: makes one.
    """

    tiny_model: str
    new_folder: Callable[[], Path]
    folders: dict[str, str] = field(default_factory=dict)
    known: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allow_float32()  # the ranks are forks of this process
        allow_float32_cache()
        cut = make_prompts(self.tiny_model)
        # of 1 to 90 tokens; the last one runs alone, one token a step
        self.prompts = [*cut[:6], cut[7][:33], cut[9][:2], cut[8]]

    def model(self, name: str) -> str:
        """Returns the folder of a model."""
        if name not in self.folders:
            self.folders[name] = self._written(name)
        return self.folders[name]

    def _written(self, name: str) -> str:
        model, _, weights = name.rpartition(" ")
        if weights in _QUANTISE:
            return _QUANTISE[weights](self.model(model), self.new_folder())
        if name == SIXTEEN:
            return write_model(self.new_folder(), self.tiny_model, "Qwen3MoeConfig", **(QWEN3_MOE | _SIXTEEN))
        if name in ARCHITECTURES:
            return write_sparse(self.tiny_model, self.new_folder(), name)
        return self.tiny_model if name == "DeepSeek" else write_qwen3_moe(self.new_folder(), self.tiny_model)

    def run(self, case: Case) -> list[list[Phase]]:
        return run(
            case.engine(self.model(case.model)), self.prompts, THRESHOLDS, split=case.split, deadline_s=DEADLINE_S
        )

    def run_apart(
        self,
        folder: Path,
        case: Case,
        soc: str,
        thresholds: Sequence[int | tuple[int, int]] = THRESHOLDS,
        deadline_s: float = DEADLINE_S,
    ) -> tuple[list[list[Phase]], Counter[str]]:
        """Returns what `run` does of an engine on another SoC or with graphs, and how its rows were sent."""
        ranks, ways = call_apart(
            folder,
            run,
            case.engine(self.model(case.model)),
            self.prompts,
            list(thresholds),
            num_ranks=case.layout.num_ranks,
            soc=soc,
            compiles=bool(case.capture_sizes),
            deadline_s=deadline_s,
            split=case.split,
        )
        return ranks, ways

    def check(self, case: Case, ranks: list[list[Phase]]) -> None:
        """Tokens with each threshold, and which steps were ours."""
        for index in range(len(THRESHOLDS)):
            tokens = all_tokens(ranks, index, case.layout.tp)
            assert len(set(tokens)) > len(self.prompts) // 2  # not degenerate
            if not case.is_quantised:
                assert tokens == self.expected(case.model)
                continue
            shards = split_by_tp(case.layout.tp, expert_parallel=case.expert_parallel, cut=case.is_cut)
            followed = follow(self.model(case.model), self.prompts, tokens, integer_network(shards))
            followed.assert_tokens(case.tie)
        for plain, always in ranks:
            assert plain.scatter["num_scattered"] == 0
            assert always.scatter["num_scattered"] > 0
            if not case.capture_sizes:  # what replays whole is no pass
                assert always.scatter["num_plain"] == 0

    def expected(self, name: str) -> list[tuple[int, ...]]:
        if name not in self.known:
            self.known[name] = transformers_tokens(self.model(name), self.prompts, NUM_TOKENS)
        return self.known[name]
