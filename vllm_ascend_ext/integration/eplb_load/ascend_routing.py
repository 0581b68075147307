# SPDX-License-Identifier: Apache-2.0
"""Counts the ids that vllm-ascend 0.23.0 routes, which does not use vLLM's router objects.

In vllm-ascend a layer's quantisation method routes, by `select_experts`. `AscendUnquantizedFusedMoEMethod.apply`
(ops/fused_moe/fused_moe.py:201) then offers the routed ids, which are logical ids before vllm-ascend's own mapping
(`log2phy`), to an object stored on the layer. vllm-ascend uses that for `enable_return_routed_experts`. We store
an object of ours there, layer by layer, and leave out the flag's transport of the ids to the requests. Quantised
layers have methods without such an object (`ascend_quantised`). This file can go once vllm-ascend routes through
vLLM's `BaseRouter`, whose hook `vllm_routing` uses.

Which of the rows a rank counts says `ascend_rows`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch

from vllm_ascend_ext.integration.eplb_load import ascend_quantised
from vllm_ascend_ext.integration.errors import IncompatibleVllmError, UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import eplb_load as seams
from vllm_ascend_ext.integration.upstream.stack import Count
from vllm_ascend_ext.integration.upstream.versions import what_to_install

_HOOK = "_ascend_routed_experts_capturer"


def capture(name: str, layer: Any, count: Count) -> Callable[[Count], None]:
    """Passes the ids that `layer` routes in each forward to `count`.

    Args:
        name: name of the layer, for messages.
        layer: a loaded mixture-of-experts layer.
        count: function of the ids ``[T, K]``.

    Returns:
        Function that puts another in the place of `count`.

    Raises:
        UnsupportedCombinationError: the layer's method does not offer the ids.
        IncompatibleVllmError: this vllm-ascend has no method that offers them.
    """
    from vllm_ascend.ops.fused_moe.fused_moe import AscendFusedMoE, AscendUnquantizedFusedMoEMethod
    from vllm_ascend.quantization.method_adapters import AscendFusedMoEMethod

    method = layer.quant_method
    if type(layer).forward_impl is not AscendFusedMoE.forward_impl:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load cannot count {name}: {type(layer).__name__} is not vllm-ascend's "
            "AscendFusedMoE; set eplb_load.enabled to false"
        )
    if type(method) is AscendFusedMoEMethod:
        return ascend_quantised.watch(name, layer, count)
    if type(method).apply is not AscendUnquantizedFusedMoEMethod.apply:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load cannot count {name}: {type(method).__name__} keeps what it routes to itself; "
            "use an unquantised model or set eplb_load.enabled to false"
        )
    source = inspect.getsource(AscendUnquantizedFusedMoEMethod.apply)
    if _HOOK not in source or "layer.vllm_config.model_config" not in source:
        raise IncompatibleVllmError(
            "this vllm-ascend's AscendUnquantizedFusedMoEMethod.apply no longer offers what it routed to the "
            f"layer's {_HOOK}. {what_to_install('vllm_ascend')}"
        )
    capturer = _Capturer(count)
    change.mark(seams.CAPTURER, layer, _HOOK, capturer)
    # every forward reads the flag from here; set here, it turns on nothing else
    change.wrap(seams.LAYER_CONFIG, layer, copy.copy)
    change.wrap(seams.MODEL_CONFIG, layer.vllm_config, copy.copy)
    change.replace(seams.RETURNS_EXPERTS, True, layer.vllm_config.model_config)
    return capturer.put


class _Capturer:
    """Receives the routed ids from `AscendUnquantizedFusedMoEMethod.apply`."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def put(self, count: Count) -> None:
        """Has another function count from now on."""
        self._count = count

    def capture(self, layer_id: int, topk_ids: torch.Tensor) -> None:
        """Counts the routed ids.

        Args:
            layer_id: index of the layer, not used.
            topk_ids: ``[T, K]`` int32, ids of logical experts.
        """
        self._count(topk_ids)
