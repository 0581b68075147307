# SPDX-License-Identifier: Apache-2.0
"""Says what our features need to know of the software that serves: vLLM's own layers, or vllm-ascend's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from vllm_ascend_ext.integration.upstream.versions import Pair
    from vllm_ascend_ext.rank_place import RankPlace
    from vllm_ascend_ext.runner.step import StepFacts

Count = Callable[["torch.Tensor"], None]
"""Takes the ids ``[T, K]`` that a layer has routed in a forward."""


class Stack(Protocol):
    """Knows where a stack's mixture-of-experts layers are, where they route and exchange rows, and its EPLB.

    There is one object a stack (`integration/stacks/`), and one stack a device and pair of versions (`DEVICES`).

    name: "vllm" or "vllm-ascend".
    pair: the versions of vLLM and vllm-ascend that it is about.
    unverified: ways to serve, and features, that have not run with the stack's versions. They are refused there
        (`startup.pair_limits`).
    """

    name: str
    pair: Pair
    unverified: frozenset[str]

    def dispatches(self, vllm_config: Any) -> tuple[str, ...]:
        """Returns the ways by which rows reach their experts, of which a step of this configuration takes one.

        The answer is known before anything is loaded. "ALLGATHER" stands for vLLM's and vllm-ascend's all-gather.
        """
        ...

    def splits_rows(self, vllm_config: Any) -> bool:
        """Returns whether the stack's own sequence parallelism splits rows among tensor-parallel ranks."""
        ...

    def own_config(self, vllm_config: Any) -> Any:
        """Returns the configuration that the stack keeps beside vLLM's; None where there is none."""
        ...

    def moe_layers(self, runner: Any) -> dict[str, Any]:
        """Returns layer name → mixture-of-experts layer, in forward order, of the target and the draft model."""
        ...

    def experts_of(self, layer: Any) -> tuple[int, int]:
        """Returns (the layer's logical experts, the experts of a row)."""
        ...

    def check_loaded(self, runner: Any, feature: str) -> None:
        """Raises UnsupportedCombinationError when a loaded runner dispatches in a way that `dispatches` missed."""
        ...

    def watch_routing(self, name: str, layer: Any, count: Count) -> Callable[[Count], None]:
        """Has `count` called with the routed ids ``[T, K]`` of each forward of a layer: logical experts.

        Returns a function that puts another function in the place of `count`. Raises UnsupportedCombinationError
        when the layer's routing cannot be seen.
        """
        ...

    def own_rows(self, layer: Any, place: RankPlace) -> Callable[[int], slice]:
        """Returns a function from the number of a loaded layer's routed rows, in the present forward, to those of
        them of which this rank counts the first.

        How many of them says `num_to_count`. A captured graph keeps what the call returned at its capture. The
        function raises RuntimeError where rows travel in a way that is not known.
        """
        ...

    def num_to_count(self, facts: StepFacts, place: RankPlace, *, sequence_parallel: bool) -> int:
        """Returns how many rows this rank counts in the pass that is about to run: its real rows among `own_rows`.

        The sum over the ranks of a replica is `facts.num_tokens` exactly. Raises RuntimeError as
        what `own_rows` returns does.

        Args:
            facts: the pass.
            place: place of this rank in its engine.
            sequence_parallel: whether the model splits the rows among the TP ranks before the experts.
        """
        ...

    def draft_passes(self, runner: Any) -> int:
        """Returns how many passes a run of the draft model has; 0 where the stack does not tell of its runs.

        Only drafts of a stack that tells can be counted in captured graphs.
        """
        ...

    def watch_drafts(self, runner: Any, begin: Callable[[int, int, int], None]) -> None:
        """Has `begin` called before each run of all draft passes, outside graphs.

        Its arguments are the rows of the first pass and of each later one that may belong to requests, and the
        rows of each pass, padding included.
        """
        ...

    def bind_exchange(self, runner: Any, layers: dict[str, Any], config: Any) -> Any:
        """Has the layers exchange their rows by plan; returns the `LayerPlanner`. Every rank calls it.

        Raises UnsupportedCombinationError when a layer cannot follow a plan.
        """
        ...

    def decoder(self, runner: Any) -> Any:
        """Returns the loaded model of a runner as `attn_scatter` takes it apart, its `Decoder`.

        Raises UnsupportedCombinationError when some step of that model cannot be taken apart.
        """
        ...

    def eplb_with_our_loads(self) -> AbstractContextManager[None]:
        """Returns a context: a runner that is built or loads in it gets an EPLB that can be fed with our loads."""
        ...

    def feed_eplb(self, runner: Any, collection: Any, config: Any) -> None:
        """Has the runner's EPLB decide by what `collection` counts (an `ExpertLoadCollection`).

        Raises UnsupportedCombinationError when that EPLB balances a model whose load is not counted.
        """
        ...
