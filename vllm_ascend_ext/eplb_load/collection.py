# SPDX-License-Identifier: Apache-2.0
"""Collects the expert load of a runner's models, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.eplb_load.draft_passes import DraftPasses
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX, ExpertLoadRecorder, LocalLoad
from vllm_ascend_ext.eplb_load.snapshots import Snapshots
from vllm_ascend_ext.eplb_load.windows import CollectedLoad
from vllm_ascend_ext.runner.step import StepFacts

MakeSnapshots = Callable[[Sequence[ExpertLoadRecorder]], Snapshots]
NumToCount = Callable[[StepFacts, "RoutedModel"], int]


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """Describes a loaded model's mixture-of-experts layers.

    Attributes:
        layer_names: names of the layers, in forward order.
        num_experts: number of logical experts of each layer.
        top_k: experts a token, the most of any layer.
        sequence_parallel: whether the model splits the rows among the TP ranks before the experts.
    """

    layer_names: tuple[str, ...]
    num_experts: int
    top_k: int
    sequence_parallel: bool


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """Holds the expert load of one model on this rank, with the names of its layers (rows of `load.load_LE`)."""

    layer_names: tuple[str, ...]
    top_k: int
    load: LocalLoad


class LoadOfModel:
    """Counts the expert load of one model on this rank: its layers and its recorder."""

    def __init__(self, model: RoutedModel, device: torch.device, max_routed_ids: int) -> None:
        self.model = model
        self.recorder = ExpertLoadRecorder(len(model.layer_names), model.num_experts, device, max_routed_ids)
        self._passes: DraftPasses | None = None

    def follow_passes(self, num_passes: int) -> DraftPasses:
        """Has the model counted by runs of several passes, of which `begin_passes` tells."""
        self._passes = DraftPasses(self.recorder, num_passes)
        return self._passes

    def begin_passes(self, num_tokens_P: Sequence[int]) -> None:  # noqa: N803
        """Notes the rows of a run of passes that is about to begin; `follow_passes` was called before."""
        assert self._passes is not None
        self._passes.begin(num_tokens_P)


class ExpertLoadCollection:
    """Counts on the device in every pass and takes snapshots at the ends of steps (a `StepObserver`).

    `begin_forward`, `begin_draft` and `begin_drafts` only write persistent device scalars, so a captured graph
    that follows stays valid.

    Args:
        config: how to collect.
        num_to_count: function that says how many rows of a model's pass this rank counts.
        device: the recorders' device.
        target: the target model; None where its load is not counted.
        draft: the draft model; None where its load is not counted. At least one of both is counted.
        make_snapshots: maker of the snapshots, which add up over the ranks; every rank calls it.
        max_routed_ids: most routed ids that a recorder may hold.
        is_first: whether this rank reports what all ranks handed over.
        decode_rows: most rows of a step in which every request only decodes.
        largest_replica: function from this replica's rows in a step to the rows of the replica that has most. The
            call may wait for the other replicas, so it is made only where a phase is chosen.
    """

    def __init__(
        self,
        config: EplbLoadConfig,
        num_to_count: NumToCount,
        device: torch.device,
        target: RoutedModel | None,
        draft: RoutedModel | None,
        make_snapshots: MakeSnapshots,
        *,
        max_routed_ids: int = INT32_MAX,
        is_first: bool = True,
        decode_rows: int = 0,
        largest_replica: Callable[[int], int] | None = None,
    ) -> None:
        self.config = config
        self.target = LoadOfModel(target, device, max_routed_ids) if target is not None else None
        self.draft = LoadOfModel(draft, device, max_routed_ids) if draft is not None else None
        snapshots = make_snapshots([load.recorder for load in self.loads])
        self.windows = CollectedLoad(snapshots, config.interval, is_first=is_first)
        self._num_to_count, self._decode_rows, self._largest_replica = num_to_count, decode_rows, largest_replica
        self._counts = True

    @property
    def loads(self) -> list[LoadOfModel]:
        """Returns the models whose load is counted, target first."""
        return [load for load in (self.target, self.draft) if load is not None]

    @property
    def names(self) -> list[str]:
        """Returns "target" and "draft", as far as their load is counted, in the order of `loads`."""
        return [name for name, load in (("target", self.target), ("draft", self.draft)) if load is not None]

    def begin_forward(self, facts: StepFacts) -> None:
        """Notes that the target model is about to run this step."""
        wanted = self.config.phase
        if wanted != "all":
            self._counts = self._with_largest_replica(facts).phase(self._decode_rows) == wanted
        self._begin(self.target, facts)

    def begin_draft(self, facts: StepFacts) -> None:
        """Notes that the draft model is about to run a pass, which counts when the step's target pass does."""
        self._begin(self.draft, facts)

    def begin_drafts(self, passes: Sequence[StepFacts]) -> None:
        """Notes that the draft model is about to run several passes, perhaps from one graph."""
        if self.draft is not None:
            self.draft.begin_passes([self._num_of(self.draft, facts) for facts in passes])

    def end_step(self) -> None:
        """Notes that all passes of the step have been launched."""
        self.windows.end_step()

    def read(self) -> list[NamedLoad]:
        """Returns what this rank reports since the last `reset`, target model first; waits for the device.

        A rank reports the load that was counted and not handed over, and the first rank also the load that all
        ranks handed over: the sum over the ranks is everything that was routed.
        """
        return [
            NamedLoad(of_model.model.layer_names, of_model.model.top_k, load)
            for of_model, load in zip(self.loads, self.windows.read(), strict=True)
        ]

    def reset(self) -> None:
        """Forgets all counts."""
        self.windows.reset()

    def close(self) -> None:
        """Ends the thread that sums, where there is one."""
        self.windows.snapshots.close()

    def _begin(self, load: LoadOfModel | None, facts: StepFacts) -> None:
        if load is not None:
            load.recorder.begin_step(self._num_of(load, facts))

    def _num_of(self, load: LoadOfModel, facts: StepFacts) -> int:
        return self._num_to_count(facts, load.model) if self._counts else 0

    def _with_largest_replica(self, facts: StepFacts) -> StepFacts:
        if self._largest_replica is None or not facts.num_tokens:
            return facts
        return dataclasses.replace(facts, max_num_rows=self._largest_replica(facts.num_tokens_padded))
