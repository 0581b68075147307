# SPDX-License-Identifier: Apache-2.0
"""`ExtWorker`: the worker mixin that builds our model runner, binds the features and answers RPC calls."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar

from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.commitment import Commitment
from vllm_ascend_ext.integration.attn_scatter import model as attn_scatter
from vllm_ascend_ext.integration.dp_gather.counts.ahead import CountsAhead
from vllm_ascend_ext.integration.eplb_load import bind as expert_load
from vllm_ascend_ext.integration.eplb_load import metrics as load_metrics
from vllm_ascend_ext.integration.mtp_output import bind as mtp_output
from vllm_ascend_ext.integration.ranks import traffic
from vllm_ascend_ext.integration.startup import activation
from vllm_ascend_ext.integration.upstream import patches
from vllm_ascend_ext.integration.upstream.devices import DEVICES
from vllm_ascend_ext.integration.upstream.moe_layers import moe_layers
from vllm_ascend_ext.ops import require_kernels
from vllm_ascend_ext.runner.features import StepFeatures
from vllm_ascend_ext.runner.step import RankLayout


class ExtWorker:
    """Mixin in front of a device's worker.

    model_runner_class: the runner to build.
    model_runner_symbol: "module:attribute" where the device's `init_device` looks its runner up; None when it
    reads `model_runner_class` itself.
    """

    model_runner_class: ClassVar[type]
    model_runner_symbol: ClassVar[str | None]
    gather_planner: Any = None  # of `dp_gather`
    scattered_model: attn_scatter.ScatteredModel | None = None

    def init_device(self) -> None:
        """Let the device's worker build our runner class instead of its own."""
        symbol = self.model_runner_symbol
        runner_class = patches.rebind(symbol, self.model_runner_class) if symbol else nullcontext()
        with runner_class, self._eplb_class():
            super().init_device()  # type: ignore[misc]
        self.model_runner.attach_features(self._create_features())

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load, then bind the features to the layers of the target and the draft model."""
        runner = self.model_runner
        with self._eplb_class():
            super().load_model(*args, **kwargs)  # type: ignore[misc]
        if runner.step_features is None:
            return
        config = runner.step_features.config
        if config.eplb_load.enabled:
            expert_load.bind(runner)
        if config.dp_gather.enabled:
            self._bind_gather(config.dp_gather)
        if config.attn_scatter.enabled:
            self.scattered_model = attn_scatter.bind(runner, config.attn_scatter)
        if config.mtp_output.enabled:
            mtp_output.bind(self, config.mtp_output)

    def _bind_gather(self, config: DpGatherConfig) -> None:
        """Where the device's mixture-of-experts layers exchange rows, they follow the planner from now on."""
        layers = moe_layers(self.model_runner)
        if DEVICES[self.vllm_config.device_config.device_type].routes_itself:
            from vllm_ascend_ext.integration.dp_gather import ascend_exchange

            self.gather_planner = ascend_exchange.bind(self.model_runner, layers, config)
            return
        from vllm_ascend_ext.integration.dp_gather import vllm_exchange

        self.gather_planner = vllm_exchange.bind(self.model_runner, layers, config)

    def execute_dummy_batch(self, max_rows: int = 0, max_draft_rows: int = 0) -> None:
        """RPC: a dummy pass, carrying the commitment about the next that `commitments` makes; else none."""
        counts = None if self.gather_planner is None else self.gather_planner.counts
        if isinstance(counts, CountsAhead):
            counts.commit(Commitment(max_rows, max_draft_rows))
        super().execute_dummy_batch()  # type: ignore[misc]

    def shutdown(self) -> None:
        """End what the features started, then the device's worker."""
        runner = getattr(self, "model_runner", None)
        if runner is not None and runner.step_features is not None:
            runner.step_features.close()
        if runner is not None and runner.step_outputs is not None:
            runner.step_outputs.outputs.close()
        super().shutdown()  # type: ignore[misc]

    def _eplb_class(self) -> AbstractContextManager[None]:
        """While the runner is built and loads, the device's EPLB gets the class that our counts can feed."""
        config = activation.read_config(self.vllm_config)
        if config is None or not (config.eplb_load.enabled and config.eplb_load.rebalance):
            return nullcontext()
        if DEVICES[self.vllm_config.device_config.device_type].routes_itself:
            from vllm_ascend_ext.integration.eplb_load import ascend_eplb

            return patches.rebind(ascend_eplb.SYMBOL, ascend_eplb.FedEplbUpdator)
        from vllm_ascend_ext.integration.eplb_load import vllm_eplb

        return patches.rebind(vllm_eplb.EPLB_STATE, vllm_eplb.FedEplbState)

    def ascend_ext_report(self, reset: bool = False) -> dict[str, Any]:
        """RPC: what this rank counted and sent since the last reset, as plain JSON-serialisable values."""
        features = self.model_runner.step_features
        loads = [] if features is None else features.read_load()
        report = {
            "rank": self.rank,
            "load": [
                {
                    "layers": list(named.layer_names),
                    "top_k": named.top_k,
                    "num_tokens": named.load.num_tokens,
                    "load_LE": named.load.load_LE.tolist(),
                }
                for named in loads
            ],
            "collection": self._collection(),
            "attn_scatter": self.scattered_model and self.scattered_model.report(),
            "traffic": traffic.report(),
            "dp_gather": {} if self.gather_planner is None else self.gather_planner.report(),
            "dp_counts": None if self.gather_planner is None else self.gather_planner.counts_report(),
            "physical_to_logical": self.placements(),
            "output": mtp_output.report(self.model_runner),
        }
        if reset:
            traffic.reset()
            if self.scattered_model is not None:
                self.scattered_model.reset()
            if self.gather_planner is not None:
                self.gather_planner.reset()
            if features is not None:
                features.reset_load()
        return report

    def _collection(self) -> dict[str, Any] | None:
        """How the collection went on this rank; None without one."""
        features = self.model_runner.step_features
        if features is None or features.collected is None:
            return None
        collected = features.collected
        return {
            "step": collected.step,
            **asdict(collected.aggregator.stats),
            **asdict(collected.window_stats),
        }

    def ascend_ext_metrics(self) -> dict[str, Any] | None:
        """RPC: what `load_metrics` shows on /metrics; None on all ranks but the first. Does not wait."""
        return load_metrics.of_worker(self)

    def ascend_ext_output_metrics(self) -> dict[str, Any] | None:
        """RPC: what `output_metrics` shows on /metrics; None on ranks that do not send. Does not wait."""
        document = mtp_output.report(self.model_runner)
        return document if document is not None and "frames" in document else None

    def placements(self) -> dict[str, list[list[int]]]:
        """EPLB's present placement of the target and the draft model, [layers][physical experts] → logical."""
        state = getattr(self.model_runner, "eplb_state", None)
        models = [] if state is None else state.model_states.values()
        return {
            "target" if model.model is self.model_runner.get_model() else "draft": (
                model.physical_to_logical_map.tolist()
            )
            for model in models
        }

    def _create_features(self) -> StepFeatures | None:
        """The features this configuration turns on; None when all are off."""
        config = activation.read_config(self.vllm_config)
        if config is None or not config.features():
            return None
        device = self.model_runner.device
        require_kernels(device.type)
        return StepFeatures(config, self._rank_layout(), device)

    def _rank_layout(self) -> RankLayout:
        from vllm.distributed import get_tp_group

        tp = get_tp_group()
        return RankLayout(tp.rank_in_group, tp.world_size)

    # attributes of the device's worker that the mixin reads
    vllm_config: Any
    model_runner: Any
    rank: int
