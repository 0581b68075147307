# SPDX-License-Identifier: Apache-2.0
"""What the model runner does around a step: the features that the configuration turned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.eplb.recorder import ExpertLoadRecorder, LocalLoad
from vllm_ascend_ext.runner.step import RankLayout, StepFacts


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


# routed slots (tokens times top-k) after which the device's int32 counters are drained: half of what they hold
_DRAIN_SLOTS = 2**30


class LoadOfModel:
    """Expert load of one model on this rank: the recorder on the device and what was drained from it.

    The int32 counters are drained into int64 on the host long before they could wrap, so that a server may
    run for as long as it likes; that costs one copy every 2^30 routed slots.
    """

    def __init__(self, model: RoutedModel, device: torch.device) -> None:
        self.model = model
        self.recorder = ExpertLoadRecorder(len(model.layer_names), model.num_experts, device)
        self._drained = self.recorder.read()
        self._num_undrained_tokens = 0

    def begin(self, facts: StepFacts, layout: RankLayout) -> None:
        """A pass is about to run."""
        num_tokens = facts.num_routed_tokens(layout, sequence_parallel=self.model.sequence_parallel)
        if (self._num_undrained_tokens + num_tokens) * self.model.top_k > _DRAIN_SLOTS:
            self._drained = self.read().load
            self.recorder.reset()
            self._num_undrained_tokens = 0
        self._num_undrained_tokens += num_tokens
        self.recorder.begin_step(num_tokens)

    def read(self) -> NamedLoad:
        """Everything since the last `reset`."""
        now, before = self.recorder.read(), self._drained
        load = LocalLoad(
            load_LE=before.load_LE + now.load_LE,
            num_tokens=before.num_tokens + now.num_tokens,
            num_steps=before.num_steps + now.num_steps,
        )
        return NamedLoad(self.model.layer_names, self.model.top_k, load)

    def reset(self) -> None:
        self.recorder.reset()
        self._drained = self.recorder.read()
        self._num_undrained_tokens = 0


class StepFeatures:
    """Features of one runner. The runner calls `begin_forward` before the target model runs and `begin_draft`
    before each pass of the draft model; both only write persistent device scalars, so a captured graph that
    follows stays valid.
    """

    def __init__(self, config: ExtConfig, layout: RankLayout, device: torch.device) -> None:
        self.config = config
        self.layout = layout
        self.device = device
        self.target_load: LoadOfModel | None = None
        self.draft_load: LoadOfModel | None = None

    def record_load_of(self, target: RoutedModel | None, draft: RoutedModel | None) -> None:
        """Create the recorders once the models are loaded; does nothing when `eplb_load` is off."""
        if self.config.eplb_load.enabled:
            self.target_load = LoadOfModel(target, self.device) if target is not None else None
            self.draft_load = LoadOfModel(draft, self.device) if draft is not None else None

    def begin_forward(self, facts: StepFacts) -> None:
        """The target model is about to run this step."""
        if self.target_load is not None:
            self.target_load.begin(facts, self.layout)

    def begin_draft(self, facts: StepFacts) -> None:
        """The draft model is about to run one of its passes."""
        if self.draft_load is not None:
            self.draft_load.begin(facts, self.layout)

    def read_load(self) -> list[NamedLoad]:
        """What this rank has counted since the last `reset_load`, target model first; waits for the device."""
        return [load.read() for load in (self.target_load, self.draft_load) if load is not None]

    def reset_load(self) -> None:
        for load in (self.target_load, self.draft_load):
            if load is not None:
                load.reset()
