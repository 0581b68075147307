# SPDX-License-Identifier: Apache-2.0
"""Adapts the features to vLLM's own layers, on CUDA and on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from vllm_ascend_ext.integration.upstream import moe_layers
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily
from vllm_ascend_ext.integration.upstream.seams.rows.eplb_load import EPLB_STATE
from vllm_ascend_ext.integration.upstream.stack import Count
from vllm_ascend_ext.integration.upstream.versions import PAIR_0_23
from vllm_ascend_ext.rank_place import RankPlace
from vllm_ascend_ext.runner.step import StepFacts


class VllmStack:
    """Implements `Stack`. Methods import their adaptors on first use, as these import vLLM's modules."""

    name = "vllm"
    pair = PAIR_0_23
    unverified: frozenset[str] = frozenset()

    def dispatches(self, vllm_config: Any) -> tuple[str, ...]:
        """Returns vLLM's all2all_backend; one that gathers all rows is called ALLGATHER, as in vllm-ascend."""
        backend = str(vllm_config.parallel_config.all2all_backend)
        return ("ALLGATHER" if backend in ("naive", "allgather_reducescatter") else backend,)

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns False: no rule asks it of vLLM's own layers."""
        return False

    def own_config(self, vllm_config: Any) -> Any:
        """Returns None: all of it is in vLLM's configuration."""
        return None

    def moe_layers(self, runner: Any) -> dict[str, Any]:
        """Returns the layers that vLLM keeps for its forward context."""
        return moe_layers.moe_layers(runner)

    def experts_of(self, layer: Any) -> tuple[int, int]:
        """Returns what vLLM's layer says of itself."""
        return int(layer.logical_num_experts), int(layer.top_k)

    def check_loaded(self, runner: Any, feature: str) -> None:
        """Does nothing: `dispatches` alone tells how vLLM's layers dispatch."""

    def watch_routing(self, name: str, layer: Any, count: Count) -> Callable[[Count], None]:
        """Passes the ids that a layer routes to `count`, by the capture hook of vLLM's routers."""
        from vllm_ascend_ext.integration.eplb_load import vllm_routing

        return vllm_routing.capture(name, layer, count)

    def own_rows(self, layer: Any, place: RankPlace) -> Callable[[int], slice]:
        """Returns what says this rank's part of the rows that vLLM's naive dispatch has gathered, else all."""
        from vllm_ascend_ext.integration.eplb_load import vllm_routing

        return vllm_routing.own_rows(layer)

    def num_to_count(self, facts: StepFacts, place: RankPlace, *, sequence_parallel: bool) -> int:
        """Returns this TP rank's share of the real rows."""
        return facts.num_routed_tokens(place, sequence_parallel=sequence_parallel)

    def draft_passes(self, runner: Any) -> int:
        """Returns 0: between the passes that a graph of vLLM's draft model replays, nothing is told."""
        return 0

    def watch_drafts(self, runner: Any, begin: Callable[[int, int, int], None]) -> None:
        """Is not called, by what `draft_passes` returns.

        Raises:
            NotImplementedError: it was called.
        """
        raise NotImplementedError("vLLM does not tell of the runs of its draft model")

    def bind_exchange(self, runner: Any, layers: dict[str, Any], config: Any) -> Any:
        """Replaces vLLM's all-to-all manager by our exchange of rows."""
        from vllm_ascend_ext.integration.dp_gather import vllm_exchange

        return vllm_exchange.bind(runner, layers, config)

    def decoder(self, runner: Any) -> Any:
        """Takes the layers of a loaded model of vLLM apart."""
        from vllm_ascend_ext.integration.attn_scatter.vllm_decoder import VllmDecoder

        return VllmDecoder(runner)

    def eplb_with_our_loads(self) -> AbstractContextManager[None]:
        """Replaces the EPLB class that vLLM's runner looks up."""
        from vllm_ascend_ext.integration.eplb_load import vllm_eplb

        return temporarily([Change(EPLB_STATE, vllm_eplb.EplbStateWithOurLoads)])

    def feed_eplb(self, runner: Any, collection: Any, config: Any) -> None:
        """Feeds vLLM's `EplbState`, model by model."""
        models = [runner.get_model()] if collection.target is not None else []
        models += [runner.drafter.model] if collection.draft is not None else []
        runner.eplb_state.use_loads(collection.windows, config.rebalance_lead, models)


STACK = VllmStack()
