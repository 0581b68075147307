# SPDX-License-Identifier: Apache-2.0
"""Shows the ids that vllm-ascend's quantised layers route.

Each method of quantization/methods routes by itself, in its `apply`, by the function `select_experts` that its
module imports, and offers the ids to nobody. The function does not know for which layer it chooses. So a watched
layer's own method is wrapped, to say whose ids come next, and the module's function, to show them: logical ids,
before vllm-ascend's mapping (`log2phy`) and before the random ids of its profile run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.rule_facts import (
    experts_quantised_otherwise,
    methods_of_experts,
    named_methods,
)
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import eplb_load as seams
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.integration.upstream.stack import Count

# by the name in a checkpoint's description, the function by which the method of its experts routes
WATCHED = {
    "W8A8_DYNAMIC": seams.SELECT_W8A8,
    "W8A8_MIX": seams.SELECT_W8A8,
    "W4A8_DYNAMIC": seams.SELECT_W4A8,
    "W4A16": seams.SELECT_W4A16,
}
# of which vllm-ascend says itself that they are for an A5 only (device/device_op.py)
_OF_AN_A5 = frozenset({"W8A8_MXFP8", "W4A4_MXFP4", "W4A8_MXFP", "W4A16_MXFP4", "fp8", "deepseek_v4_fp8"})


def unwatched_experts(deployment: Deployment) -> object:
    """Returns {methods} of quantised experts whose routing cannot be seen, but those of an A5, else None."""
    return experts_quantised_otherwise(deployment, {*WATCHED, *_OF_AN_A5})


def experts_of_an_a5(deployment: Deployment) -> object:
    """Returns {methods} of quantised experts that only an A5 computes, else None."""
    return named_methods(methods_of_experts(deployment) & _OF_AN_A5)


def watch(name: str, layer: Any, count: Count) -> Callable[[Count], None]:
    """Passes the ids that a quantised layer routes in each forward to `count`, a function of the ids ``[T, K]``.

    Returns:
        Function that puts another in the place of `count`.

    Raises:
        UnsupportedCombinationError: the layer's method routes by another function than those that are watched.
    """
    scheme = layer.quant_method.quant_method
    module = type(scheme).apply.__module__
    seam = next((seam for seam in WATCHED.values() if seam.module == module), None)
    if seam is None:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load cannot count {name}: how {type(scheme).__name__} routes cannot be seen; use "
            f"{', '.join(WATCHED)} or an unquantised model, or set eplb_load.enabled to false"
        )
    _show_choices(seam)
    counting = _Counting(count)
    change.wrap(seams.QUANTISED_APPLY, layer.quant_method, functools.partial(_watched, name, counting))
    return counting.put


@functools.cache  # once a process
def _show_choices(seam: Seam) -> None:
    change.wrap(seam, None, _shown)


class _Counting:
    """Holds the function that counts a layer's ids."""

    def __init__(self, count: Count) -> None:
        self.count = count

    def put(self, count: Count) -> None:
        self.count = count


class _Watch:
    """Receives the ids of the layer that is in its method now."""

    current: _Watch | None = None

    def __init__(self, count: Count) -> None:
        self._count = count
        self.num_shown = 0

    def show(self, topk_ids: torch.Tensor) -> None:
        self.num_shown += 1
        self._count(topk_ids)


def _shown(select_experts: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that shows what it chose to the layer that is watched."""

    @functools.wraps(select_experts)
    def select(*args: Any, **kwargs: Any) -> Any:
        weights, topk_ids = select_experts(*args, **kwargs)
        if _Watch.current is not None:
            _Watch.current.show(topk_ids)
        return weights, topk_ids

    return select


def _watched(name: str, counting: _Counting, apply: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a layer's method with `counting` told of its ids.

    Raises, when called, RuntimeError: the method did not route once, so that rows would be missed or doubled.
    """

    @functools.wraps(apply)
    def watched(*args: Any, **kwargs: Any) -> Any:
        before, watch = _Watch.current, _Watch(counting.count)
        _Watch.current = watch
        try:
            result = apply(*args, **kwargs)
        finally:
            _Watch.current = before
        if watch.num_shown != 1:
            raise RuntimeError(
                f"ascend_ext.eplb_load: {name} has chosen experts {watch.num_shown} times in one forward, where "
                "it was to choose once; set eplb_load.enabled to false and report this"
            )
        return result

    return watched
