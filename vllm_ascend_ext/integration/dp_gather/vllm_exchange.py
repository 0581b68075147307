# SPDX-License-Identifier: Apache-2.0
"""Makes the all-gather dispatch and combine of vLLM's mixture-of-experts layers follow each pass's plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.distributed.device_communicators.all2all import AgRsAll2AllManager

from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.integration.dp_gather.counts.install import make_counts
from vllm_ascend_ext.integration.dp_gather.loaded_layers import check_layers
from vllm_ascend_ext.integration.dp_gather.planner import LayerPlanner, make_planner
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import dp_gather as seams


class PlannedAll2AllManager(AgRsAll2AllManager):  # type: ignore[misc]
    """Takes the place of vLLM's "allgather_reducescatter" manager.

    Args:
        cpu_group: host group of the manager that is replaced.
        planner: planner of the layers that dispatch through this manager.
    """

    def __init__(self, cpu_group: Any, planner: LayerPlanner) -> None:
        super().__init__(cpu_group)
        self._planner = planner
        self._gather = planner.gather

    def dispatch_router_logits(
        self,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        is_sequence_parallel: bool = False,
        extra_tensors: list[torch.Tensor] | None = None,
    ) -> Any:
        """Gathers rows before routing. The layer's router then leaves padding out (`_without_padding`)."""
        return self._dispatch([hidden_states, router_logits], extra_tensors, mark=-math.inf, fill=0)

    def dispatch(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        is_sequence_parallel: bool = False,
        extra_tensors: list[torch.Tensor] | None = None,
    ) -> Any:
        """Gathers rows after routing. Padding gets the expert -1."""
        return self._dispatch([hidden_states, topk_weights, topk_ids], extra_tensors, mark=-1, fill=-1)

    def combine(self, hidden_states: torch.Tensor, is_sequence_parallel: bool = False) -> torch.Tensor:
        """Returns this rank's rows of the sum of all ranks' outputs."""
        return self._gather.combine(hidden_states)

    def own_rows(self) -> slice:
        """Returns which rows of the gathered buffer came from this rank."""
        rows, rank = self._gather.plan.rows, self._gather.rank
        return slice(rows.offsets[rank], rows.offsets[rank] + rows.held[rank])

    def _dispatch(
        self, tensors: list[torch.Tensor], extra: list[torch.Tensor] | None, mark: float, fill: int
    ) -> Any:
        """Gathers all tensors, and marks padding in the last of `tensors`, which says where rows go.

        Args:
            tensors: hidden states and whatever routes them.
            extra: further tensors of the same rows, if any.
            mark: value for rows that this rank holds only to reach its bound.
            fill: value for the plan's padding.
        """
        self._planner.plan_exchange([*tensors, *(extra or [])])
        *others, routing = tensors
        gathered = [
            *(self._gather.gather(x) for x in others),
            self._gather.gather(_marked(routing, self._planner.bound_padding(), mark), fill=fill),
        ]
        if extra is None:
            return tuple(gathered)
        return (*gathered, [self._gather.gather(x) for x in extra])


def _marked(x: torch.Tensor, rows: slice, mark: float) -> torch.Tensor:
    """Returns `x` if `rows` is empty, else a copy with `mark` in all of `rows`."""
    if rows.start == rows.stop:
        return x
    marked = x.clone()
    marked[rows] = mark
    return marked


def bind(runner: Any, layers: dict[str, Any], config: DpGatherConfig) -> LayerPlanner:
    """Makes the layers of a loaded runner exchange rows by plan. Every rank calls it.

    Raises:
        UnsupportedCombinationError: a layer cannot follow a plan, or `make_planner` refuses.
        StartupError: the ranks would plan differently.
    """
    from vllm.distributed import get_ep_group

    check_layers(layers)
    first = next(iter(layers.values()))
    planner = make_planner(
        runner,
        split_rows=first.moe_config.is_sequence_parallel,
        config=config,
        make_counts=functools.partial(make_counts, runner, config),
    )
    communicator = get_ep_group().device_communicator
    manager = PlannedAll2AllManager(communicator.all2all_manager.cpu_group, planner)
    change.replace(seams.MANAGER, manager, communicator)
    for layer in layers.values():
        _hook(layer, planner)
    return planner


def _hook(layer: Any, planner: LayerPlanner) -> None:
    """Makes the layer's forward end the plan in force, and the layer's router leave padding out."""

    def planned(sizes_context: Any) -> Any:
        @contextmanager
        def planned_context() -> Iterator[None]:
            planner.counts.wait()
            with sizes_context(), planner.layer():
                yield

        return planned_context

    change.wrap(seams.SIZES_CONTEXT, layer.runner, planned)
    if layer.runner.do_naive_dispatch_combine:
        change.wrap(seams.ROUTING, layer.router, functools.partial(_without_padding, planner=planner))


def _without_padding(compute_routing: Any, planner: LayerPlanner) -> Any:
    """Wraps a router's function so that it returns the expert -1 for padding rows.

    Padding rows are those of the plan, and those that a replica added to reach its bound. The replica has set all
    logits of its added rows to minus infinity, which no request's row has.
    """

    @functools.wraps(compute_routing)
    def compute(
        hidden_states: torch.Tensor, router_logits: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        topk_weights, topk_ids = compute_routing(hidden_states, router_logits, *args, **kwargs)
        planner.gather.fill_padding_(topk_ids, -1)
        if planner.counts.is_ahead:
            is_padding = torch.isneginf(router_logits).all(dim=1, keepdim=True)
            topk_ids.masked_fill_(is_padding, -1)
            topk_weights.masked_fill_(is_padding, 0)  # a softmax of these logits is NaN
        return topk_weights, topk_ids

    return compute
