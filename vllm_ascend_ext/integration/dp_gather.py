# SPDX-License-Identifier: Apache-2.0
"""vLLM's all-gather dispatch and combine of mixture-of-experts layers, by the plan of each forward pass."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager

from vllm_ascend_ext.collectives import Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.device import create_device
from vllm_ascend_ext.integration import dp_gather_limits, traffic
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError
from vllm_ascend_ext.parallel.cost import RowWidths
from vllm_ascend_ext.parallel.dp_gather import DpGather
from vllm_ascend_ext.parallel.gather_plan import GatherPlan, make_plan
from vllm_ascend_ext.parallel.gather_rows import GatherMode, Topology
from vllm_ascend_ext.parallel.machine import Machine, MachineError, describe

_CACHED_PLANS = 4096


@dataclass(slots=True)
class ModeStats:
    """Layers that exchanged their rows by one mode on this rank: how many, their rows, the bytes foretold."""

    num_layers: int = 0
    num_rows: int = 0
    num_pad_rows: int = 0
    planned_bytes: int = 0


class PlannedAll2AllManager(AgRsAll2AllManager):  # type: ignore[misc]
    """Takes the place of vLLM's "allgather_reducescatter" manager.

    Args:
        cpu_group: of the manager that is replaced.
        gather: of the ranks among which layers exchange rows.
        topology: of the same ranks.
        config: how to choose.
        machine: for the rule "cost".
    """

    def __init__(
        self, cpu_group: Any, gather: DpGather, topology: Topology, config: DpGatherConfig, machine: Machine | None
    ) -> None:
        super().__init__(cpu_group)
        self.gather = gather
        self.topology = topology
        self.stats: dict[str, ModeStats] = {}
        self._config = config
        self._machine = machine
        self.mode = None if config.mode == "planned" else GatherMode(config.mode)  # all ranks' the same
        self._layer: ExitStack | None = None
        self._plan = functools.lru_cache(_CACHED_PLANS)(self._make_plan)

    @contextmanager
    def layer(self) -> Iterator[None]:
        """One layer's forward: the plan that its dispatch puts in force ends with it, however it ends."""
        with ExitStack() as stack:
            self._layer = stack
            try:
                yield
            finally:
                self._layer = None

    def dispatch_router_logits(
        self,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        is_sequence_parallel: bool = False,
        extra_tensors: list[torch.Tensor] | None = None,
    ) -> Any:
        """Gather before routing; the router of the layer then routes no padding (`_without_padding`)."""
        return self._dispatch([hidden_states, router_logits], extra_tensors, ids=None)

    def dispatch(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        is_sequence_parallel: bool = False,
        extra_tensors: list[torch.Tensor] | None = None,
    ) -> Any:
        """Gather after routing; padding gets the expert -1."""
        return self._dispatch([hidden_states, topk_weights, topk_ids], extra_tensors, ids=2)

    def combine(self, hidden_states: torch.Tensor, is_sequence_parallel: bool = False) -> torch.Tensor:
        """This rank's rows of the sum of all ranks' outputs."""
        return self.gather.combine(hidden_states)

    def report(self) -> dict[str, dict[str, int]]:
        """Mode → what was exchanged by it since `stats` was cleared."""
        return {mode: asdict(stats) for mode, stats in self.stats.items()}

    def own_rows(self) -> slice:
        """The rows of the gathered buffer that this rank gave."""
        rows, rank = self.gather.plan.rows, self.gather.rank
        return slice(rows.offsets[rank], rows.offsets[rank] + rows.held[rank])

    def mask_routing(self, topk_ids_NK: torch.Tensor) -> None:
        """Take the padding's experts away, in place."""
        self.gather.fill_padding_(topk_ids_NK, -1)

    def _dispatch(self, tensors: list[torch.Tensor], extra: list[torch.Tensor] | None, ids: int | None) -> Any:
        every = [*tensors, *(extra or [])]
        self._put_in_force(every)
        gathered = [self.gather.gather(x, fill=-1 if i == ids else 0) for i, x in enumerate(every)]
        if extra is None:
            return tuple(gathered)
        return (*gathered[: len(tensors)], gathered[len(tensors) :])

    def _put_in_force(self, tensors: list[torch.Tensor]) -> None:
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context

        assert self._layer is not None, "dispatch outside a layer"
        context = get_forward_context()
        hidden = tensors[0]
        widths = RowWidths(tuple(x.shape[1] * x.element_size() for x in tensors), self._combine_bytes(hidden))
        plan = self._plan(
            tuple(context.dp_metadata.num_tokens_across_dp_cpu.tolist()),
            widths,
            context.cudagraph_runtime_mode != CUDAGraphMode.NONE,  # the smallest of all ranks' in this step
            self.mode,
        )
        self._layer.enter_context(self.gather.under(plan))
        stats = self.stats.setdefault(plan.mode.value, ModeStats())
        stats.num_layers += 1
        stats.num_rows += plan.rows.num_rows
        stats.num_pad_rows += plan.rows.num_pad_rows
        stats.planned_bytes += plan.chosen.cost.sent[self.gather.rank]

    def _combine_bytes(self, hidden: torch.Tensor) -> int:
        """The experts' output has the model's dtype also where their input is quantised."""
        item = hidden.element_size() if hidden.element_size() > 1 else 2
        return int(hidden.shape[1]) * item

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


def bind(runner: Any, layers: dict[str, Any], config: DpGatherConfig) -> PlannedAll2AllManager:
    """Let the layers of a loaded runner exchange rows by plan. Every rank calls it.

    Raises UnsupportedCombinationError when a layer does not dispatch through vLLM's runner, and StartupError when
    the ranks would plan differently.
    """
    from vllm.distributed import get_ep_group

    dp_gather_limits.check_layers(layers)
    dp_gather_limits.check_graphs(runner, config)
    communicator = get_ep_group().device_communicator
    manager = _manager(runner, next(iter(layers.values())), config, communicator.all2all_manager)
    communicator.all2all_manager = manager
    for layer in layers.values():
        _hook(layer, manager)
    return manager


def _manager(
    runner: Any, layer: Any, config: DpGatherConfig, replaced: AgRsAll2AllManager
) -> PlannedAll2AllManager:
    """The manager over the ranks that `layer` exchanges rows with."""
    from vllm.distributed import get_dp_group, get_ep_group, get_tp_group

    dp_size = get_dp_group().world_size
    if layer.moe_config.is_sequence_parallel:
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
    _check_agreement(ranks, config, machine, runner.device)
    traffic.register(ranks.name, ranks)
    return PlannedAll2AllManager(replaced.cpu_group, DpGather(ranks, attn_tp), topology, config, machine)


def _collectives(runner: Any, group: Any, config: DpGatherConfig) -> Collectives:
    index = runner.device.index
    device = create_device(runner.device.type, 0 if index is None else index)
    return Collectives(
        group.device_group,
        config.deadline_s,
        f"DP gather over {group.unique_name}",
        stream_ordered=device.capabilities.device_collectives,
    )


def _check_agreement(
    ranks: Collectives, config: DpGatherConfig, machine: Machine | None, device: torch.device
) -> None:
    """Ranks that plan by different numbers would wait for each other in different collectives."""
    text = config.model_dump_json() + (machine.to_json() if machine is not None else "")
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    own = torch.tensor([[digest]], dtype=torch.int32, device=device)
    digests = ranks.all_gather_rows(own, None).flatten().tolist()
    if different := [rank for rank, other in zip(ranks.world_ranks, digests, strict=True) if other != digest]:
        raise StartupError(
            f"ascend_ext.dp_gather: world ranks {different} have another dp_gather section or machine description "
            f"than world rank {ranks.world_ranks[ranks.rank]}; give all the same"
        )


def _hook(layer: Any, manager: PlannedAll2AllManager) -> None:
    """The layer's forward ends the plan in force, and its router leaves padding out."""
    layer_runner = layer.runner
    sizes_context = layer_runner._sequence_parallel_context

    @contextmanager
    def planned_context() -> Iterator[None]:
        with sizes_context(), manager.layer():
            yield

    layer_runner._sequence_parallel_context = planned_context
    if layer_runner.do_naive_dispatch_combine:
        layer.router._compute_routing = _without_padding(layer.router._compute_routing, manager)


def _without_padding(compute_routing: Any, manager: PlannedAll2AllManager) -> Any:
    @functools.wraps(compute_routing)
    def compute(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        topk_weights, topk_ids = compute_routing(*args, **kwargs)
        manager.mask_routing(topk_ids)
        return topk_weights, topk_ids

    return compute
