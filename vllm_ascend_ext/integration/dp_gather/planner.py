# SPDX-License-Identifier: Apache-2.0
"""Plans the exchange of each mixture-of-experts layer, from the row counts that the replicas know in the pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.exchange import DpGather
from vllm_ascend_ext.dp_gather.machine import Machine, MachineError, describe
from vllm_ascend_ext.dp_gather.plan import GatherPlan, make_plan
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import AskedCounts, RowCounts
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks import agreement, traffic
from vllm_ascend_ext.integration.upstream.runner_device import device_of
from vllm_ascend_ext.runner.step_cost import Method, Place

_CACHED_PLANS = 4096


@dataclass(slots=True)
class ModeStats:
    """Counts the layers that exchanged rows in one mode on this rank, with their rows and the bytes predicted."""

    num_layers: int = 0
    num_rows: int = 0
    num_pad_rows: int = 0
    planned_bytes: int = 0


class LayerPlanner:
    """Plans and counts the exchanges of all layers of a runner.

    Args:
        gather: exchange of rows among the ranks of all layers.
        topology: layout of the same ranks.
        config: settings that say how to choose.
        machine: description of the machine, for the rule "cost".
        counts: way by which the replicas learn each other's row counts.
    """

    def __init__(
        self,
        gather: DpGather,
        topology: Topology,
        config: DpGatherConfig,
        machine: Machine | None,
        counts: RowCounts,
    ) -> None:
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context

        self.gather = gather
        self.topology = topology
        self.stats: dict[str, ModeStats] = {}
        self.mode = None if config.mode == "planned" else GatherMode(config.mode)  # the same on all ranks
        self.counts = counts
        self._config = config
        self._machine = machine
        self._layer: ExitStack | None = None
        self._present_context, self._no_graph = get_forward_context, CUDAGraphMode.NONE
        self._plan = functools.lru_cache(_CACHED_PLANS)(self._make_plan)

    def bound_padding(self) -> slice:
        """Returns the rows that this rank holds only to reach its replica's bound. No other rank knows which."""
        rows, rank, counts = self.gather.plan.rows, self.gather.rank, self.counts
        held, real = rows.held[rank], rows.real[rank]
        if not counts.is_ahead:
            return slice(real, real)
        first = rank % self.topology.attn_tp_size * held  # index among the replica's rows
        return slice(min(max(counts.own_rows_of_pass - first, 0), real), real)

    @contextmanager
    def layer(self) -> Iterator[None]:
        """Spans one layer's forward. The plan of the exchange ends with the layer, also when the layer fails."""
        with ExitStack() as stack:
            self._layer = stack
            try:
                yield
            finally:
                self._layer = None

    def plan_exchange(self, tensors: list[torch.Tensor]) -> GatherPlan:
        """Plans how to gather these tensors, ``[S, ...]`` each, hidden states first, and to combine the results.

        The plan is in force until the layer ends.
        """
        assert self._layer is not None, "rows are exchanged outside a layer"
        context = self._present_context()
        plan = self._plan(
            tuple(context.dp_metadata.num_tokens_across_dp_cpu.tolist()),
            tuple([x.shape[1] * x.element_size() for x in tensors]),
            _combine_bytes(tensors[0]),
            context.cudagraph_runtime_mode is not self._no_graph,  # the same on all ranks in a step
            self.mode,
        )
        self._layer.enter_context(self.gather.under(plan))
        stats: ModeStats = self.stats.setdefault(plan.mode.value, ModeStats())
        stats.num_layers += 1
        stats.num_rows += plan.rows.num_rows
        stats.num_pad_rows += plan.rows.num_pad_rows
        stats.planned_bytes += plan.chosen.cost.sent[self.gather.rank]
        return plan

    def report(self) -> dict[str, dict[str, int]]:
        """Returns what was exchanged since `reset`, by the name of the mode."""
        return {mode: asdict(stats) for mode, stats in self.stats.items()}

    def counts_report(self) -> dict[str, Any] | None:
        """Returns how the replicas learned their counts since `reset`, or None if vLLM exchanges the counts."""
        return self.counts.report() or None

    def cost_places(self) -> list[Place]:
        """Returns the parts of an exchange, and the collectives inside them."""
        parts = ("gather", "combine", "drop_padding", "restore_padding", "fill_padding_")
        places: list[Place] = [Method("plan", self, "plan_exchange"), Method("layer", self, "layer")]
        places += [Method(part, self.gather, part) for part in parts]
        return places + [place for group in self.gather.groups for place in group.cost_places()]

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats.clear()
        self.counts.reset()

    def _make_plan(
        self,
        counts: tuple[int, ...],
        row_bytes: tuple[int, ...],
        combine_bytes: int,
        in_graph: bool,
        mode: GatherMode | None,
    ) -> GatherPlan:
        return make_plan(
            counts,
            self.topology,
            RowWidths(row_bytes, combine_bytes),
            rule=self._config.rule,
            machine=self._machine,
            in_graph=in_graph,
            mode=mode,
        )


def _combine_bytes(hidden: torch.Tensor) -> int:
    """Returns the bytes of a row of the experts' output: two an element when the input is quantised to one."""
    return int(hidden.shape[1]) * max(hidden.element_size(), 2)


def make_planner(
    runner: Any,
    *,
    split_rows: bool,
    config: DpGatherConfig,
    make_counts: Callable[[], RowCounts] = AskedCounts,
) -> LayerPlanner:
    """Makes the planner of a runner's layers. Every rank calls it.

    Args:
        runner: runner whose layers exchange rows.
        split_rows: whether the TP ranks of a replica split its rows among them before the exchange.
        config: settings that say how to choose a plan.
        make_counts: function that makes the replicas' counts, called once all ranks agree on the configuration.

    Raises:
        UnsupportedCombinationError: the machine description is wrong, or for another number of ranks.
        StartupError: the ranks would plan differently.
    """
    from vllm.distributed import get_dp_group, get_ep_group, get_tp_group

    dp_size = get_dp_group().world_size
    if split_rows:
        ranks = _collectives(runner, get_ep_group(), config)
        attn_tp = _collectives(runner, get_tp_group(), config)
        topology = Topology(dp_size, get_tp_group().world_size)
    else:
        ranks, attn_tp, topology = _collectives(runner, get_dp_group(), config), None, Topology(dp_size)
    machine = None
    if config.machine:
        try:
            machine = describe(config.machine, topology.num_ranks)
        except MachineError as error:
            raise UnsupportedCombinationError(f"ascend_ext.dp_gather.machine: {error}") from None
    check_agreement(ranks, config, machine, runner.device)
    traffic.register(ranks.name, ranks)
    return LayerPlanner(DpGather(ranks, attn_tp), topology, config, machine, make_counts())


def _collectives(runner: Any, group: Any, config: DpGatherConfig) -> Collectives:
    return Collectives(
        group.device_group,
        config.deadline_s,
        f"DP gather over {group.unique_name}",
        stream_ordered=device_of(runner).capabilities.device_collectives,
    )


def check_agreement(
    ranks: Collectives, config: DpGatherConfig, machine: Machine | None, device: torch.device
) -> None:
    """Raises StartupError where the ranks have different settings or machine descriptions to plan by."""
    text = config.model_dump_json() + (machine.to_json() if machine is not None else "")
    agreement.check_agreement(ranks, "dp_gather", "dp_gather section or machine description", text, device)
