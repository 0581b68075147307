# SPDX-License-Identifier: Apache-2.0
"""`LayerPlanner`: the plan of each mixture-of-experts layer's exchange, from what vLLM agreed on in the pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.dp_gather.commitment import Commitment
from vllm_ascend_ext.dp_gather.exchange import DpGather
from vllm_ascend_ext.dp_gather.machine import Machine, MachineError, describe
from vllm_ascend_ext.dp_gather.plan import GatherPlan, make_plan
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology
from vllm_ascend_ext.integration.dp_gather.counts.ahead import CountsAhead
from vllm_ascend_ext.integration.dp_gather.counts.overlapped import OverlappedCounts
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks import agreement, traffic

_CACHED_PLANS = 4096


@dataclass(slots=True)
class ModeStats:
    """Layers that exchanged their rows by one mode on this rank: how many, their rows, the bytes foretold."""

    num_layers: int = 0
    num_rows: int = 0
    num_pad_rows: int = 0
    planned_bytes: int = 0


class LayerPlanner:
    """Plans and counts the exchanges of all layers of a runner.

    Args:
        gather: of the ranks among which layers exchange rows.
        topology: of the same ranks.
        config: how to choose.
        machine: for the rule "cost".
    """

    def __init__(
        self, gather: DpGather, topology: Topology, config: DpGatherConfig, machine: Machine | None
    ) -> None:
        self.gather = gather
        self.topology = topology
        self.stats: dict[str, ModeStats] = {}
        self.mode = None if config.mode == "planned" else GatherMode(config.mode)  # all ranks' the same
        self.counts: OverlappedCounts | CountsAhead | None = None
        self._config = config
        self._machine = machine
        self._layer: ExitStack | None = None
        self._plan = functools.lru_cache(_CACHED_PLANS)(self._make_plan)

    def await_counts(self) -> None:
        """The counts in the forward context are those of all replicas from here on."""
        if self.counts is not None:
            self.counts.wait()

    def commit(self, commitment: Commitment) -> None:
        """Has the coming pass carry what this replica commits to about the next."""
        if isinstance(self.counts, CountsAhead):
            self.counts.commit(commitment)

    @property
    def is_ahead(self) -> bool:
        """Whether replicas may have rows beyond their requests' in this pass, up to their bounds."""
        return isinstance(self.counts, CountsAhead) and self.counts.is_ahead

    def bound_padding(self) -> slice:
        """The rows that this rank holds only to reach its replica's bound; nobody else can tell them."""
        rows, rank, counts = self.gather.plan.rows, self.gather.rank, self.counts
        held, real = rows.held[rank], rows.real[rank]
        if not (isinstance(counts, CountsAhead) and counts.is_ahead):
            return slice(real, real)
        first = rank % self.topology.attn_tp_size * held  # of the replica's rows
        return slice(min(max(counts.num_own_rows - first, 0), real), real)

    @contextmanager
    def layer(self) -> Iterator[None]:
        """One layer's forward: the plan that is put in force inside ends with it, however it ends."""
        with ExitStack() as stack:
            self._layer = stack
            try:
                yield
            finally:
                self._layer = None

    def put_in_force(self, tensors: list[torch.Tensor]) -> GatherPlan:
        """The plan for gathering these tensors, ``[S, ...]`` each, hidden states first, and for combining."""
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context

        assert self._layer is not None, "rows are exchanged outside a layer"
        context = get_forward_context()
        widths = RowWidths(tuple(x.shape[1] * x.element_size() for x in tensors), _combine_bytes(tensors[0]))
        plan = self._plan(
            tuple(context.dp_metadata.num_tokens_across_dp_cpu.tolist()),
            widths,
            context.cudagraph_runtime_mode != CUDAGraphMode.NONE,  # the smallest of all ranks' in this step
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
        """Mode → what was exchanged by it since `reset`."""
        return {mode: asdict(stats) for mode, stats in self.stats.items()}

    def counts_report(self) -> dict[str, Any] | None:
        """How the replicas' counts were known since `reset`; None where vLLM exchanges them."""
        return None if self.counts is None else self.counts.report()

    def reset(self) -> None:
        """Forgets what was counted."""
        self.stats.clear()
        if self.counts is not None:
            self.counts.reset()

    def _make_plan(
        self, counts: tuple[int, ...], widths: RowWidths, in_graph: bool, mode: GatherMode | None
    ) -> GatherPlan:
        return make_plan(
            counts,
            self.topology,
            widths,
            rule=self._config.rule,
            machine=self._machine,
            in_graph=in_graph,
            mode=mode,
        )


def _combine_bytes(hidden: torch.Tensor) -> int:
    """The experts' output has two bytes an element where their input is quantised to one."""
    return int(hidden.shape[1]) * max(hidden.element_size(), 2)


def make_planner(runner: Any, *, split_rows: bool, config: DpGatherConfig) -> LayerPlanner:
    """The planner of a runner's layers. Every rank calls it.

    split_rows: the TP ranks of a replica split its rows among them before the exchange.

    Raises UnsupportedCombinationError for a machine of another number of ranks, and StartupError when the ranks
    would plan differently.
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
    return LayerPlanner(DpGather(ranks, attn_tp), topology, config, machine)


def _collectives(runner: Any, group: Any, config: DpGatherConfig) -> Collectives:
    index = runner.device.index
    device = create_device(runner.device.type, 0 if index is None else index)
    return Collectives(
        group.device_group,
        config.deadline_s,
        f"DP gather over {group.unique_name}",
        stream_ordered=device.capabilities.device_collectives,
    )


def check_agreement(
    ranks: Collectives, config: DpGatherConfig, machine: Machine | None, device: torch.device
) -> None:
    """Raises StartupError where the ranks would plan by different numbers."""
    text = config.model_dump_json() + (machine.to_json() if machine is not None else "")
    agreement.check_agreement(ranks, "dp_gather", "dp_gather section or machine description", text, device)
