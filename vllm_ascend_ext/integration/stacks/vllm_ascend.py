# SPDX-License-Identifier: Apache-2.0
"""Adapts the features to vllm-ascend's layers, which route and exchange rows without vLLM's objects for that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from vllm_ascend_ext.integration.upstream import ascend_dispatch, moe_layers
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily
from vllm_ascend_ext.integration.upstream.seams.rows.eplb_load import EPLB_UPDATOR
from vllm_ascend_ext.integration.upstream.stack import Count
from vllm_ascend_ext.integration.upstream.versions import PAIR_0_23, Pair
from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step import StepFacts


class VllmAscendStack:
    """Implements `Stack`. Methods import their adaptors on first use, as these import vllm-ascend's modules."""

    name = "vllm-ascend"
    pair: Pair = PAIR_0_23
    unverified: frozenset[str] = frozenset()

    def dispatches(self, vllm_config: Any) -> tuple[str, ...]:
        """Returns the ways to dispatch that vllm-ascend chooses among by SoC, ranks and experts."""
        return ascend_dispatch.dispatches(vllm_config)

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns whether FlashComm v1 or the pass of sequence parallelism is on, as vllm-ascend says."""
        from vllm_ascend.utils import enable_sp, enable_sp_by_pass

        return bool(enable_sp(vllm_config) or enable_sp_by_pass())

    def own_config(self, vllm_config: Any) -> Any:
        """Returns vllm-ascend's `AscendConfig`."""
        from vllm_ascend.ascend_config import get_ascend_config

        return get_ascend_config()

    def moe_layers(self, runner: Any) -> dict[str, Any]:
        """Returns the layers that vLLM keeps for its forward context: vllm-ascend's derive from vLLM's."""
        return moe_layers.moe_layers(runner)

    def experts_of(self, layer: Any) -> tuple[int, int]:
        """Returns what vLLM's layer says of itself."""
        return int(layer.logical_num_experts), int(layer.top_k)

    def check_loaded(self, runner: Any, feature: str) -> None:
        """Checks which dispatch vllm-ascend chooses for the smallest and the largest step."""
        from vllm_ascend_ext.integration.eplb_load.ascend_rows import COUNTED_WAYS

        ascend_dispatch.check_runner(runner, feature, "cannot count rows", COUNTED_WAYS)

    def watch_routing(self, name: str, layer: Any, count: Count) -> Callable[[Count], None]:
        """Passes the ids that a layer routes to `count`, where the layer's quantisation method offers them."""
        from vllm_ascend_ext.integration.eplb_load import ascend_routing

        return ascend_routing.capture(name, layer, count)

    def own_rows(self, layer: Any, place: RankPlace) -> Callable[[int], slice]:
        """Returns what says this replica's gathered rows, or this rank's slice, by the present pass's dispatch."""
        from vllm_ascend_ext.integration.eplb_load import ascend_rows

        return lambda num_routed: ascend_rows.own_rows(layer, num_routed, place)

    def num_to_count(self, facts: StepFacts, place: RankPlace, *, sequence_parallel: bool) -> int:
        """Returns the real rows of this rank, by the present pass's dispatch. No model splits rows by itself."""
        from vllm_ascend_ext.integration.eplb_load import ascend_rows

        return ascend_rows.num_to_count(facts.num_tokens, place)

    def draft_passes(self, runner: Any) -> int:
        """Returns the passes that vllm-ascend merges into one run, for MTP drafts."""
        from vllm_ascend_ext.integration.eplb_load import ascend_drafts

        return ascend_drafts.num_passes(runner.drafter)

    def watch_drafts(self, runner: Any, begin: Callable[[int, int, int], None]) -> None:
        """Puts `begin` before the one call by which vllm-ascend's proposer runs or replays all passes."""
        from vllm_ascend_ext.integration.eplb_load import ascend_drafts

        ascend_drafts.watch(runner, begin)

    def bind_exchange(self, runner: Any, layers: dict[str, Any], config: Any) -> Any:
        """Replaces the two halves of vllm-ascend's all-gather dispatch."""
        from vllm_ascend_ext.integration.dp_gather import ascend_exchange

        return ascend_exchange.bind(runner, layers, config)

    def decoder(self, runner: Any) -> Any:
        """Takes the layers of a loaded model of vllm-ascend apart."""
        from vllm_ascend_ext.integration.attn_scatter.ascend_decoder import AscendDecoder

        return AscendDecoder(runner)

    def eplb_with_our_loads(self) -> AbstractContextManager[None]:
        """Replaces the EPLB class that vllm-ascend's runner looks up."""
        from vllm_ascend_ext.integration.eplb_load import ascend_eplb

        return temporarily([Change(EPLB_UPDATOR, ascend_eplb.EplbUpdatorWithOurLoads)])

    def feed_eplb(self, runner: Any, collection: Any, config: Any) -> None:
        """Feeds vllm-ascend's `EplbUpdator`, layer by layer."""
        names = [load.model.layer_names for load in collection.loads]
        runner.eplb_updator.use_loads(collection.windows, config, names)


STACK = VllmAscendStack()
