# SPDX-License-Identifier: Apache-2.0
"""What the model runner does around a step: the features that the configuration turned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX, ExpertLoadRecorder, LocalLoad
from vllm_ascend_ext.eplb_load.snapshots import ExpertLoadAggregator
from vllm_ascend_ext.eplb_load.windows import CollectedLoad
from vllm_ascend_ext.runner.step import RankLayout, StepFacts

MakeAggregator = Callable[[Sequence[ExpertLoadRecorder]], ExpertLoadAggregator]


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A loaded model's mixture-of-experts layers.

    layer_names: in forward order; num_experts: logical experts a layer; top_k: the largest of any layer.
    sequence_parallel: the model splits the rows among the TP ranks before the experts.
    """

    layer_names: tuple[str, ...]
    num_experts: int
    top_k: int
    sequence_parallel: bool


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """Expert load of one model on this rank, with the names of its layers (rows of `load.load_LE`)."""

    layer_names: tuple[str, ...]
    top_k: int
    load: LocalLoad


class LoadOfModel:
    """Expert load of one model on this rank: its layers and its recorder."""

    def __init__(self, model: RoutedModel, device: torch.device, max_slots: int) -> None:
        self.model = model
        self.recorder = ExpertLoadRecorder(len(model.layer_names), model.num_experts, device, max_slots)

    def begin(self, facts: StepFacts, layout: RankLayout, *, counts: bool) -> None:
        """A pass is about to run; it is counted if `counts`."""
        num_tokens = facts.num_routed_tokens(layout, sequence_parallel=self.model.sequence_parallel)
        self.recorder.begin_step(num_tokens if counts else 0)


class StepFeatures:
    """Features of one runner. The runner calls `begin_forward` before the target model runs, `begin_draft` before
    each pass of the draft model, and `end_step` after a step; the first two only write persistent device scalars,
    so a captured graph that follows stays valid.

    largest_replica(num_rows): rows of the replica that has most in this step, where this one has `num_rows`; None
    where no phase is chosen, for it may have to wait for the other replicas.
    decode_rows: see `StepFacts.phase`. Both are the runner's, and matter only when a phase is chosen.
    """

    def __init__(self, config: ExtConfig, layout: RankLayout, device: torch.device) -> None:
        self.config = config
        self.layout = layout
        self.device = device
        self.largest_replica: Callable[[int], int] | None = None
        self.decode_rows = 0
        self.target_load: LoadOfModel | None = None
        self.draft_load: LoadOfModel | None = None
        self.collected: CollectedLoad | None = None
        self._counts = True

    @property
    def loads(self) -> list[LoadOfModel]:
        """Of the models whose load is counted, target first."""
        return [load for load in (self.target_load, self.draft_load) if load is not None]

    def record_load_of(
        self,
        target: RoutedModel | None,
        draft: RoutedModel | None,
        make_aggregator: MakeAggregator,
        *,
        max_slots: int = INT32_MAX,
        is_first: bool = True,
    ) -> None:
        """Create recorders and aggregator once the models are loaded; does nothing when `eplb_load` is off.

        max_slots: of the recorders. is_first: whether this rank reports what all ranks handed over.
        """
        if not self.config.eplb_load.enabled:
            return
        self.target_load = LoadOfModel(target, self.device, max_slots) if target is not None else None
        self.draft_load = LoadOfModel(draft, self.device, max_slots) if draft is not None else None
        if self.loads:
            aggregator = make_aggregator([load.recorder for load in self.loads])
            self.collected = CollectedLoad(aggregator, self.config.eplb_load.interval, is_first=is_first)

    def begin_forward(self, facts: StepFacts) -> None:
        """The target model is about to run this step."""
        wanted = self.config.eplb_load.phase
        self._counts = wanted == "all" or facts.phase(self.decode_rows) == wanted
        if self.target_load is not None:
            self.target_load.begin(facts, self.layout, counts=self._counts)

    def begin_draft(self, facts: StepFacts) -> None:
        """The draft model is about to run one of its passes; they count when the step's target pass does."""
        if self.draft_load is not None:
            self.draft_load.begin(facts, self.layout, counts=self._counts)

    def end_step(self) -> None:
        """All passes of the step have been launched."""
        if self.collected is not None:
            self.collected.end_step()

    def read_load(self) -> list[NamedLoad]:
        """What this rank reports since the last `reset_load`, target model first; waits for the device.

        That is what it counted and did not hand over, and on the first rank also what all ranks handed over: the
        sum over the ranks is everything that was routed.
        """
        if self.collected is None:
            return []
        return [
            NamedLoad(of_model.model.layer_names, of_model.model.top_k, load)
            for of_model, load in zip(self.loads, self.collected.read(), strict=True)
        ]

    def reset_load(self) -> None:
        """Forget all counts."""
        if self.collected is not None:
            self.collected.reset()

    def close(self) -> None:
        """End what was started."""
        if self.collected is not None:
            self.collected.aggregator.close()
