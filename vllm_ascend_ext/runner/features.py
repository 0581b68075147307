# SPDX-License-Identifier: Apache-2.0
"""What the model runner does around a step: the features that the configuration turned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.eplb.recorder import ExpertLoad, ExpertLoadRecorder
from vllm_ascend_ext.runner.step import RankLayout, StepFacts


@dataclass(frozen=True, slots=True)
class RoutedModel:
    """A loaded model's mixture-of-experts layers: their names in forward order and their logical experts."""

    layer_names: tuple[str, ...]
    num_experts: int
    top_k: int


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """Expert load of one model on this rank, with the names of its layers (rows of `load.load_LE`)."""

    layer_names: tuple[str, ...]
    top_k: int
    load: ExpertLoad


class StepFeatures:
    """Features of one runner. The runner calls `begin_forward` before the target model runs and `begin_draft`
    before each pass of the draft model; both only write persistent device scalars, so a captured graph that
    follows stays valid.
    """

    def __init__(self, config: ExtConfig, layout: RankLayout, device: torch.device) -> None:
        self.config = config
        self.layout = layout
        self.device = device
        self.target_load: ExpertLoadRecorder | None = None
        self.draft_load: ExpertLoadRecorder | None = None
        self._models: list[tuple[RoutedModel, ExpertLoadRecorder]] = []

    def record_load_of(self, target: RoutedModel, draft: RoutedModel | None) -> None:
        """Create the recorders once the models are loaded; does nothing when `eplb_load` is off."""
        if not self.config.eplb_load.enabled:
            return
        self.target_load = self._recorder(target)
        self.draft_load = self._recorder(draft) if draft is not None else None

    def begin_forward(self, facts: StepFacts) -> None:
        """The target model is about to run this step."""
        if self.target_load is not None:
            self.target_load.begin_step(facts.num_routed_tokens(self.layout))

    def begin_draft(self, facts: StepFacts) -> None:
        """The draft model is about to run one of its passes."""
        if self.draft_load is not None:
            self.draft_load.begin_step(facts.num_routed_tokens(self.layout))

    def read_load(self) -> Sequence[NamedLoad]:
        """Host copies of what this rank has counted since the last `reset_load`, target model first."""
        return [NamedLoad(model.layer_names, model.top_k, recorder.read()) for model, recorder in self._models]

    def reset_load(self) -> None:
        for _, recorder in self._models:
            recorder.reset()

    def _recorder(self, model: RoutedModel) -> ExpertLoadRecorder:
        recorder = ExpertLoadRecorder(len(model.layer_names), model.num_experts, self.device)
        self._models.append((model, recorder))
        return recorder
