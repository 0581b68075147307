# SPDX-License-Identifier: Apache-2.0
"""Builds our model runner, binds the features and answers RPC calls, in a mixin for the workers of all devices."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from functools import cached_property
from typing import Any, ClassVar

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.dp_gather.commitment import Commitment
from vllm_ascend_ext.integration.errors import MovedExpertsError
from vllm_ascend_ext.integration.feature import BoundFeature
from vllm_ascend_ext.integration.ranks import traffic
from vllm_ascend_ext.integration.ranks.interface import choose_gloo_interface_of_actor
from vllm_ascend_ext.integration.ranks.place import rank_place
from vllm_ascend_ext.integration.registry import FEATURES, enabled
from vllm_ascend_ext.integration.server.head_watch import watch_first_rank_of_actor
from vllm_ascend_ext.integration.server.ray_workers import ACTOR_END_S
from vllm_ascend_ext.integration.startup.section import read_config
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.integration.upstream.moe_layers import expert_placements, models_with_moved_experts
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.ops import require_kernels


class ExtWorker:
    """Adds the features to a device's worker, which is the next base class.

    Attributes:
        model_runner_class: class of the runner to build.
        model_runner_seam: place where the device's `init_device` looks up its runner's class; None where
            `init_device` reads `model_runner_class` itself.
    """

    model_runner_class: ClassVar[type]
    model_runner_seam: ClassVar[Seam | None]

    @cached_property
    def bound_features(self) -> dict[str, BoundFeature]:
        """Returns the features at work, by name: none until the models are loaded."""
        return {}

    @cached_property
    def ext_config(self) -> ExtConfig:
        """Returns our section of the configuration; everything is off where there is none."""
        return read_config(self.vllm_config) or ExtConfig()

    @cached_property
    def stack(self) -> Stack:
        """Returns the stack of this worker's device."""
        return DEVICES[self.vllm_config.device_config.device_type].load_stack()

    def init_device(self) -> None:
        """Has the device's worker build our runner class instead of its own."""
        parallel_config = self.vllm_config.parallel_config
        choose_gloo_interface_of_actor(parallel_config)
        if parallel_config.use_ray and self.rank > 0:
            watch_first_rank_of_actor(self.distributed_init_method)
        seam = self.model_runner_seam
        runner_class = [Change(seam, self.model_runner_class)] if seam is not None else []
        with temporarily(runner_class), self._before_load():
            super().init_device()  # type: ignore[misc]
        if enabled(self.ext_config):
            require_kernels(self.model_runner.device.type)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the models, then binds the features to the layers of the target and the draft model."""
        with self._before_load():
            super().load_model(*args, **kwargs)  # type: ignore[misc]
        try:
            for feature in enabled(self.ext_config):
                section = getattr(self.ext_config, feature.name)
                self.bound_features[feature.name] = feature.bind(self, section, self.stack)
        except BaseException:  # vLLM does not shut a worker down that it could not build
            self._close_features()
            raise

    def execute_dummy_batch(self, *commitment: int) -> None:
        """Runs a dummy pass, called by RPC.

        Args:
            commitment: numbers of the `Commitment` that the pass carries about the next pass; empty where the
                scheduler does not commit ahead (`dp_gather.counts_ahead`).
        """
        if commitment:
            planner: Any = self.bound_features["dp_gather"]
            planner.commit(Commitment(*commitment))
        super().execute_dummy_batch()  # type: ignore[misc]

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        """Loads the weights once more, called by RPC.

        Raises:
            MovedExpertsError: EPLB has moved experts. Weights load where experts were at first, the router goes to
                where they are now, and vLLM would answer ok and serve wrong tokens.
        """
        self._check_experts_have_not_moved("reload_weights")
        super().reload_weights(*args, **kwargs)  # type: ignore[misc]

    def start_weight_update(self, *args: Any, **kwargs: Any) -> None:
        """Begins to take weights from a trainer, called by RPC; refused as `reload_weights` is."""
        self._check_experts_have_not_moved("start_weight_update")
        super().start_weight_update(*args, **kwargs)  # type: ignore[misc]

    def _check_experts_have_not_moved(self, call: str) -> None:
        if moved := models_with_moved_experts(self.model_runner):
            raise MovedExpertsError(
                f"{call} is refused: EPLB has moved experts of the {' and the '.join(moved)} since the weights "
                "were loaded, and would serve wrong tokens with weights loaded anew; restart the engine with the "
                "new weights, or turn EPLB off"
            )

    def shutdown(self) -> None:
        """Ends what the features started, then the device's worker."""
        try:
            self._close_features()
        finally:
            super().shutdown()  # type: ignore[misc]

    def end_actor(self) -> None:
        """Ends the Ray actor in which this worker runs, called by RPC, after what it holds has been freed."""
        signal.alarm(int(ACTOR_END_S))  # torch may wait for a collective that a cut cable left unfinished
        raise SystemExit

    def ascend_ext_report(self, reset: bool = False) -> dict[str, Any]:
        """Returns what this rank counted and sent since the last reset, as plain JSON-serialisable values, by RPC.

        Each feature has a key of its name, with null for a feature that is off.

        Args:
            reset: whether to forget the counts afterwards.
        """
        bound = {feature.name: self.bound_features.get(feature.name) for feature in FEATURES}
        replica = rank_place(self.vllm_config.parallel_config).replica
        report: dict[str, Any] = {"replica": replica, "rank": self.rank, "traffic": traffic.report()}
        report["placements"] = expert_placements(self.model_runner)
        report |= {name: None if feature is None else feature.report() for name, feature in bound.items()}
        if reset:
            traffic.reset()
            for feature in self.bound_features.values():
                feature.reset()
        return report

    def ascend_ext_metrics(self) -> dict[str, dict[str, Any]]:
        """Returns the values for /metrics of each feature that this rank answers for, without waiting, by RPC."""
        values = {name: feature.metric_values() for name, feature in self.bound_features.items()}
        return {name: shown for name, shown in values.items() if shown is not None}

    def ascend_ext_step_cost(self, measure: bool | None = None) -> dict[str, Any] | None:
        """Returns the thread time that our features have taken of the steps of this rank, by RPC.

        Args:
            measure: True to begin anew, False to end; by default a measurement that runs goes on.

        Returns:
            `StepCost.report` with the rank, of what was measured until this call; None where nothing was.
        """
        runner = self.model_runner
        measured = runner.step_cost
        if measured is not None and measure is not None:
            measured.stop()
        report = None if measured is None else {"rank": self.rank, **measured.report()}
        if measure:
            runner.measure_cost({name: bound.cost_places() for name, bound in self.bound_features.items()})
        return report

    def _close_features(self) -> None:
        """Closes the features, the last bound first, each of them even if another's end fails."""
        with ExitStack() as closing:
            for bound in self.bound_features.values():
                closing.callback(bound.close)
            self.bound_features.clear()

    def _before_load(self) -> ExitStack:
        """Returns the contexts of all features in which the runner is built and its models load."""
        with ExitStack() as stack:
            for feature in enabled(self.ext_config):
                stack.enter_context(feature.before_load(getattr(self.ext_config, feature.name), self.stack))
            return stack.pop_all()

    # attributes of the device's worker that the mixin reads
    vllm_config: Any
    model_runner: Any
    rank: int
    distributed_init_method: str
