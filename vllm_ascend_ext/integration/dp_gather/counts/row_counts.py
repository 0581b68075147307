# SPDX-License-Identifier: Apache-2.0
"""How a replica learns the row counts of all replicas for a forward pass: the protocol, and vLLM's own way.

Three classes implement it: `AskedCounts` asks before the pass, `OverlappedCounts` beside the pass's first layers,
and `CountsAhead` knows the counts from what each replica has promised one pass before.
"""

from __future__ import annotations

from typing import Any, Protocol

from vllm_ascend_ext.dp_gather.commitment import Commitment

# the result of vLLM's `coordinate_batch_across_dp`: whether to split the batch into micro-batches, the rows of
# each replica (``[dp]`` int32 on the host), and the graph mode of all
PassCounts = tuple[bool, Any, int]


class RowCounts(Protocol):
    """The replicas' row counts of the passes of one runner and its drafter."""

    @property
    def is_ahead(self) -> bool:
        """Whether the counts of the step's passes are bounds that were promised, on all replicas or on none."""
        ...

    @property
    def own_rows_of_pass(self) -> int:
        """Rows of this replica in the pass under way, without those that it adds up to a bound."""
        ...

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Stands for vLLM's `coordinate_batch_across_dp` in passes of the target model, with its parameters.

        Of the rows only this replica's are valid before `wait`.
        """
        ...

    def counts_of_draft_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Stands for the same function in passes of the draft model."""
        ...

    def wait(self) -> None:
        """Waits until the counts of the pass are valid, all of them.

        Raises:
            CollectiveError: a replica's count is missing at the deadline; names the silent ranks.
        """
        ...

    def commit(self, commitment: Commitment) -> None:
        """Takes what the coming pass carries about the one after it; without a call that is nothing."""
        ...

    def report(self) -> dict[str, Any]:
        """Returns what was counted since the last `reset`; empty where vLLM alone exchanges the counts."""
        ...

    def reset(self) -> None:
        """Forgets what was counted."""
        ...


class AskedCounts:
    """Lets vLLM ask all replicas before each pass, as it does by itself.

    Where all passes ask in this way, nothing is installed: the runner's own call of vLLM's function stays.
    """

    is_ahead = False

    def __init__(self) -> None:
        self.own_rows_of_pass = 0

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Calls vLLM's function; see `RowCounts`."""
        from vllm.v1.worker import dp_utils

        self.own_rows_of_pass = num_tokens_unpadded
        result: PassCounts = dp_utils.coordinate_batch_across_dp(num_tokens_unpadded, *args, **kwargs)
        return result

    counts_of_draft_pass = counts_of_target_pass

    def wait(self) -> None:
        """Returns at once: vLLM's function has waited."""

    def commit(self, commitment: Commitment) -> None:
        """Does nothing: no replica plans by promises."""

    def report(self) -> dict[str, Any]:
        """Returns nothing that was counted."""
        return {}

    def reset(self) -> None:
        """Does nothing: nothing was counted."""
