# SPDX-License-Identifier: Apache-2.0
"""Connects the expert-load recorders to vLLM's routers, and the draft passes to the draft recorder."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch

from vllm_ascend_ext.eplb.recorder import ExpertLoadRecorder
from vllm_ascend_ext.integration import load_aggregation
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.runner.features import RoutedModel

logger = logging.getLogger(__name__)


def bind(runner: Any) -> None:
    """Create the recorders of a runner whose models are loaded and hook them into the routers.

    Raises UnsupportedCombinationError when there is nothing to count or a layer's routing cannot be seen.
    """
    draft_modules = _draft_modules(runner)
    layers = moe_layers(runner)
    target = {name: layer for name, layer in layers.items() if layer not in draft_modules}
    draft = {name: layer for name, layer in layers.items() if layer in draft_modules}
    if not target and runner.parallel_config.pipeline_parallel_size == 1:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load finds no layer to count in {type(runner.get_model()).__name__}: it does not "
            "use vLLM's FusedMoE; set eplb_load.enabled to false"
        )
    if draft and _runs_in_graphs(runner):
        logger.warning(
            "ascend_ext.eplb_load: the draft model runs in captured graphs, its load is not collected; "
            "enforce_eager collects it"
        )
        draft = {}
    features = runner.step_features
    config = features.config.eplb_load
    routed = _routed_model(target), _routed_model(draft)
    load_aggregation.check_interval(runner, config, [model for model in routed if model is not None])
    features.decode_rows = load_aggregation.decode_rows(runner)
    if config.phase != "all":
        features.largest_replica = load_aggregation.largest_replica
    features.record_load_of(
        *routed,
        functools.partial(load_aggregation.make_aggregator, runner, config),
        max_slots=load_aggregation.slot_limit(config),
        is_first=load_aggregation.is_first_rank(),
    )
    if features.target_load is not None:
        _hook(target, features.target_load.recorder)
    if features.draft_load is not None:
        _hook(draft, features.draft_load.recorder, before_pass=_DraftPasses(runner.begin_draft_pass))
    if config.rebalance:
        _feed(runner)


def _feed(runner: Any) -> None:
    """Let vLLM's EPLB decide by what is collected."""
    features = runner.step_features
    models = [runner.get_model()] if features.target_load is not None else []
    models += [runner.drafter.model] if features.draft_load is not None else []
    runner.eplb_state.feed(features.collected, features.config.eplb_load.rebalance_lead, models)


def _draft_modules(runner: Any) -> set[torch.nn.Module]:
    """All modules of the draft model, seen through the wrapper that breakable graphs put around it."""
    model = getattr(getattr(runner, "drafter", None), "model", None)
    unwrap = getattr(model, "unwrap", None)
    if unwrap is not None and not isinstance(model, torch.nn.Module):
        model = unwrap()
    return set(model.modules()) if isinstance(model, torch.nn.Module) else set()


def moe_layers(runner: Any) -> dict[str, Any]:
    """Layer name → mixture-of-experts layer, in forward order, of the target and the draft model."""
    from vllm.model_executor.layers.fused_moe.layer import FusedMoE

    context = runner.compilation_config.static_forward_context
    return {name: layer for name, layer in context.items() if isinstance(layer, FusedMoE)}


def _runs_in_graphs(runner: Any) -> bool:
    from vllm.config import CUDAGraphMode

    return runner.compilation_config.cudagraph_mode not in (None, CUDAGraphMode.NONE)


def _routed_model(layers: dict[str, Any]) -> RoutedModel | None:
    """None without layers (a pipeline stage of dense layers). Raises when the layers differ in what we count."""
    if not layers:
        return None
    experts = {layer.logical_num_experts for layer in layers.values()}
    parallel = {bool(layer.moe_config.is_sequence_parallel) for layer in layers.values()}
    if len(experts) > 1 or len(parallel) > 1:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load needs layers that are alike, but found {sorted(experts)} experts and "
            f"sequence-parallel {sorted(parallel)}; set eplb_load.enabled to false"
        )
    top_k = max(layer.top_k for layer in layers.values())
    return RoutedModel(tuple(layers), experts.pop(), top_k, parallel.pop())


def _hook(
    layers: dict[str, Any], recorder: ExpertLoadRecorder, before_pass: _DraftPasses | None = None
) -> None:
    """Count a layer's logical expert ids at vLLM's capture hook, which sees them before EPLB's mapping."""
    from vllm.model_executor.layers.fused_moe.layer import FusedMoE

    for index, (name, layer) in enumerate(layers.items()):
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
        layer.router.set_capture_fn(_capture(index, layer, recorder, before_pass))


def _capture(
    index: int, layer: Any, recorder: ExpertLoadRecorder, before_pass: _DraftPasses | None
) -> Callable[[torch.Tensor], None]:
    def capture(topk_ids_TK: torch.Tensor) -> None:
        if before_pass is not None:
            before_pass(topk_ids_TK.shape[0])
        recorder.record(index, topk_ids_TK[_own_rows(layer)])

    return capture


class _DraftPasses:
    """Tells the runner of each pass of the draft model, which it does not see one by one: a pass has its own
    forward context, and whichever layer comes first in it tells."""

    def __init__(self, begin: Callable[[int, int], None]) -> None:
        self._begin = begin
        self._context: weakref.ref[Any] | None = None

    def __call__(self, num_routed_rows: int) -> None:
        from vllm.forward_context import get_forward_context

        context = get_forward_context()
        if self._context is None or self._context() is not context:
            self._context = weakref.ref(context)
            self._begin(*_rows_of_pass(context, num_routed_rows))


def _own_rows(layer: Any) -> slice:
    """The rows of this rank among the routed ones: vLLM's naive dispatch gathers every rank's rows first."""
    from vllm.distributed import get_dp_group, get_ep_group
    from vllm.forward_context import get_forward_context

    if not layer.runner.do_naive_dispatch_combine:
        return slice(None)
    dp_metadata = get_forward_context().dp_metadata
    sizes = dp_metadata.get_chunk_sizes_across_dp_rank()
    group = get_ep_group() if layer.moe_config.is_sequence_parallel else get_dp_group()
    begin = sum(sizes[: group.rank_in_group])
    return slice(begin, begin + sizes[group.rank_in_group])


def _rows_of_pass(context: Any, num_routed_rows: int) -> tuple[int, int]:
    """(real rows, padded rows) of an eager pass; without attention metadata it is a dummy, with no real row."""
    from vllm.distributed import get_dp_group

    metadata = context.attn_metadata
    num_tokens = next(iter(metadata.values())).num_actual_tokens if metadata else 0
    if context.dp_metadata is None:
        return num_tokens, num_routed_rows
    return num_tokens, int(context.dp_metadata.num_tokens_across_dp_cpu[get_dp_group().rank_in_group])
