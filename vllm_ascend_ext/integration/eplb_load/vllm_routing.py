# SPDX-License-Identifier: Apache-2.0
"""Counts the ids that vLLM routes, by the capture hook of its routers, before EPLB maps them to physical ids."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.stack import Count


def capture(name: str, layer: Any, count: Count) -> Callable[[Count], None]:
    """Passes the ids that `layer` routes in each forward to `count`.

    Args:
        name: name of the layer, for messages.
        layer: a loaded mixture-of-experts layer.
        count: function of the ids ``[T, K]``.

    Returns:
        Function that puts another in the place of `count`.

    Raises:
        UnsupportedCombinationError: the layer does not route through vLLM's router objects.
    """
    from vllm.model_executor.layers.fused_moe.layer import FusedMoE

    if type(layer).forward is not FusedMoE.forward:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load cannot count {name}: {type(layer).__name__} routes without vLLM's router "
            "objects; set eplb_load.enabled to false"
        )
    if layer.quant_method.is_monolithic:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load cannot count {name}: {type(layer.quant_method).__name__} routes inside its "
            "kernel; choose another moe_backend or set eplb_load.enabled to false"
        )
    put: Callable[[Count], None] = layer.router.set_capture_fn
    put(count)
    return put


def own_rows(layer: Any) -> Callable[[int], slice]:
    """Returns a function from the number of a loaded layer's routed rows to this rank's rows among them: vLLM's
    naive dispatch gathers every rank's rows first."""
    return functools.partial(_own_of_gathered, layer) if layer.runner.do_naive_dispatch_combine else _all_rows


def _all_rows(num_routed: int) -> slice:
    return slice(0, num_routed)


def _own_of_gathered(layer: Any, num_routed: int) -> slice:
    from vllm.distributed import get_dp_group, get_ep_group
    from vllm.forward_context import get_forward_context

    manager = get_ep_group().device_communicator.all2all_manager
    own_rows_by_plan = getattr(manager, "own_rows", None)  # of `dp_gather`, where it is on
    if own_rows_by_plan is not None:
        own: slice = own_rows_by_plan()
        return own
    dp_metadata = get_forward_context().dp_metadata
    sizes = dp_metadata.get_chunk_sizes_across_dp_rank()
    group = get_ep_group() if layer.moe_config.is_sequence_parallel else get_dp_group()
    begin = sum(sizes[: group.rank_in_group])
    return slice(begin, begin + sizes[group.rank_in_group])
