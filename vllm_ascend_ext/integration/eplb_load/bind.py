# SPDX-License-Identifier: Apache-2.0
"""Connects the expert-load recorders to the routers, and the draft passes to the draft recorder."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.eplb_load.collection import ExpertLoadCollection, LoadOfModel, RoutedModel
from vllm_ascend_ext.eplb_load.draft_passes import DraftPasses
from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder
from vllm_ascend_ext.integration.eplb_load import aggregation
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.ranks.place import rank_place
from vllm_ascend_ext.integration.upstream.stack import Stack
from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step import StepFacts
from vllm_ascend_ext.runner.step_cost import Handed, Place

logger = logging.getLogger(__name__)


class Collected(NamedTuple):
    """Holds a runner's collection and the places of its routing hooks."""

    collection: ExpertLoadCollection
    hooks: list[Place]


def collect(runner: Any, config: EplbLoadConfig, stack: Stack) -> Collected | None:
    """Returns the collection of a runner with loaded models, hooked into their routers. Every rank calls this.

    Returns None on a pipeline stage that has no mixture-of-experts layer.

    Raises:
        UnsupportedCombinationError: there is nothing to count, or a layer's routing cannot be seen.
    """
    stack.check_loaded(runner, "eplb_load")
    target, draft = _layers_to_count(runner, stack)
    routed = _routed_model(target, stack), _routed_model(draft, stack)
    if routed == (None, None):
        return None
    aggregation.check_interval(runner, config, [model for model in routed if model is not None])
    place = rank_place(runner.parallel_config)
    collection = ExpertLoadCollection(
        config,
        functools.partial(_num_to_count, stack, place),
        runner.device,
        *routed,
        functools.partial(aggregation.make_snapshots, runner, config),
        max_routed_ids=aggregation.slot_limit(config),
        is_first=aggregation.is_first_rank(),
        decode_rows=aggregation.decode_rows(runner),
        largest_replica=functools.partial(aggregation.largest_replica, runner),
    )
    hooks: list[Place] = []
    try:
        if collection.target is not None:
            hooks += _hook(stack, place, target, collection.target.recorder)
        if collection.draft is not None:
            hooks += _hook_draft(stack, place, runner, draft, collection.draft)
        if config.rebalance:
            stack.feed_eplb(runner, collection, config)
    except BaseException:
        collection.close()
        raise
    return Collected(collection, hooks)


def _layers_to_count(runner: Any, stack: Stack) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the layers of the target and of the draft model whose load is counted, by name."""
    draft_modules = _draft_modules(runner)
    layers = stack.moe_layers(runner)
    target = {name: layer for name, layer in layers.items() if layer not in draft_modules}
    draft = {name: layer for name, layer in layers.items() if layer in draft_modules}
    if not target and runner.parallel_config.pipeline_parallel_size == 1:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load finds no layer to count in {type(runner.get_model()).__name__}: it does not "
            "use vLLM's FusedMoE; set eplb_load.enabled to false"
        )
    if draft and _runs_in_graphs(runner) and not stack.draft_passes(runner):
        logger.warning(
            "ascend_ext.eplb_load: the draft model runs in captured graphs, its load is not collected; "
            "enforce_eager collects it"
        )
        draft = {}
    return target, draft


def _draft_modules(runner: Any) -> set[torch.nn.Module]:
    """Returns all modules of the draft model, without the wrapper that breakable graphs put around the model."""
    model = getattr(getattr(runner, "drafter", None), "model", None)
    unwrap = getattr(model, "unwrap", None)
    if unwrap is not None and not isinstance(model, torch.nn.Module):
        model = unwrap()
    return set(model.modules()) if isinstance(model, torch.nn.Module) else set()


def _runs_in_graphs(runner: Any) -> bool:
    from vllm.config import CUDAGraphMode

    return runner.compilation_config.cudagraph_mode not in (None, CUDAGraphMode.NONE)


def _routed_model(layers: dict[str, Any], stack: Stack) -> RoutedModel | None:
    """Returns the facts that all layers share; None without layers, as in a pipeline stage of dense layers.

    Raises:
        UnsupportedCombinationError: the layers differ in their number of experts or in how they split rows.
    """
    if not layers:
        return None
    shapes = [stack.experts_of(layer) for layer in layers.values()]
    experts = {num_experts for num_experts, _ in shapes}
    parallel = {bool(layer.moe_config.is_sequence_parallel) for layer in layers.values()}
    if len(experts) > 1 or len(parallel) > 1:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load needs layers that are alike, but found {sorted(experts)} experts and "
            f"sequence-parallel {sorted(parallel)}; set eplb_load.enabled to false"
        )
    top_k = max(top_k for _, top_k in shapes)
    return RoutedModel(tuple(layers), experts.pop(), top_k, parallel.pop())


def _num_to_count(stack: Stack, place: RankPlace, facts: StepFacts, model: RoutedModel) -> int:
    return stack.num_to_count(facts, place, sequence_parallel=model.sequence_parallel)


def _hook_draft(
    stack: Stack, place: RankPlace, runner: Any, layers: dict[str, Any], load: LoadOfModel
) -> list[Place]:
    """Has the draft's layers counted: pass by pass where the host sees every pass, else by whole runs."""
    if not _runs_in_graphs(runner):
        return _hook(stack, place, layers, load.recorder, before_pass=_DraftPasses(runner.begin_draft_pass))
    passes = load.follow_passes(stack.draft_passes(runner))
    stack.watch_drafts(runner, functools.partial(runner.begin_draft_passes, passes.num_passes))
    return _hook(stack, place, layers, passes)


def _hook(
    stack: Stack,
    place: RankPlace,
    layers: dict[str, Any],
    recorder: ExpertLoadRecorder | DraftPasses,
    before_pass: _DraftPasses | None = None,
) -> list[Place]:
    """Has the recorder count what the layers route, by the hook that the stack has for it."""
    hooks: list[Place] = []
    for index, (name, layer) in enumerate(layers.items()):
        count = _count(index, stack.own_rows(layer, place), recorder, before_pass)
        hooks.append(Handed("routing", count, stack.watch_routing(name, layer, count)))
    return hooks


def _count(
    index: int,
    own_rows: Callable[[int], slice],
    recorder: ExpertLoadRecorder | DraftPasses,
    before_pass: _DraftPasses | None,
) -> Callable[[torch.Tensor], None]:
    def count(topk_ids_TK: torch.Tensor) -> None:
        num_routed = topk_ids_TK.shape[0]
        if before_pass is not None:
            before_pass(num_routed)
        rows = own_rows(num_routed)
        if rows.start != 0 or rows.stop != num_routed:
            topk_ids_TK = topk_ids_TK[rows]
        recorder.record(index, topk_ids_TK)

    return count


class _DraftPasses:
    """Tells the runner of each pass of the draft model, as the runner sees only all passes of a step together.

    The first layer that routes in a pass tells. A new pass has a new forward context, or, on vllm-ascend, new
    attention metadata in one context of all passes. That context keeps all metadata alive, so that ids differ.
    """

    def __init__(self, begin: Callable[..., None]) -> None:
        from vllm.forward_context import get_forward_context

        self._begin, self._present_context = begin, get_forward_context
        self._context: weakref.ref[Any] | None = None
        self._metadata = 0

    def __call__(self, num_routed_rows: int) -> None:
        context = self._present_context()
        metadata = id(context.attn_metadata)
        is_new = self._context is None or self._context() is not context
        if is_new or self._metadata != metadata:
            self._context, self._metadata = weakref.ref(context), metadata
            self._begin(*_rows_of_pass(context, num_routed_rows), is_first=is_new)


def _rows_of_pass(context: Any, num_routed_rows: int) -> tuple[int, int]:
    """Returns the real and the padded rows of an eager pass; a pass without attention metadata has no real row."""
    from vllm.distributed import get_dp_group

    metadata = context.attn_metadata
    num_tokens = next(iter(metadata.values())).num_actual_tokens if metadata else 0
    if context.dp_metadata is None:
        return num_tokens, max(num_tokens, num_routed_rows)  # a TP rank may route a slice of the rows only
    return num_tokens, int(context.dp_metadata.num_tokens_across_dp_cpu[get_dp_group().rank_in_group])
