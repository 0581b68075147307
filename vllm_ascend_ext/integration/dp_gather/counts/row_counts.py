# SPDX-License-Identifier: Apache-2.0
"""Defines how a replica learns the row counts of all replicas for a forward pass, and vLLM's own way to do so.

Three classes implement the protocol: `AskedCounts` asks before the pass, `OverlappedCounts` asks beside the pass's
first layers, and `CountsAhead` takes the counts from what each replica committed to one pass before.
"""

from __future__ import annotations

from typing import Any, Protocol

from vllm_ascend_ext.dp_gather.commitment import Commitment

# the result of vLLM's `coordinate_batch_across_dp`: whether to split the batch into micro-batches, the rows of
# each replica (``[dp]`` int32 on the host), and the graph mode of all
PassCounts = tuple[bool, Any, int]


class RowCounts(Protocol):
    """Tells one runner and its drafter the replicas' row counts of their passes."""

    @property
    def is_ahead(self) -> bool:
        """Returns whether the step's row counts are bounds from commitments, on all replicas or on none."""
        ...

    @property
    def own_rows_of_pass(self) -> int:
        """Returns this replica's rows in the pass under way, without those added to reach a bound."""
        ...

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Takes the place of vLLM's `coordinate_batch_across_dp` in passes of the target model.

        Before `wait`, only this replica's own count is valid in the result.
        """
        ...

    def counts_of_draft_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        """Takes the place of the same function in passes of the draft model."""
        ...

    def wait(self) -> None:
        """Waits until all counts of the pass are valid.

        Raises:
            CollectiveError: a replica's count is missing at the deadline. The message names the silent ranks.
        """
        ...

    def commit(self, commitment: Commitment) -> None:
        """Takes the commitment that the coming pass carries; a pass without a call commits to nothing."""
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
        """Calls vLLM's function, in which every replica waits for all others."""
        from vllm.v1.worker import dp_utils

        self.own_rows_of_pass = num_tokens_unpadded
        result: PassCounts = dp_utils.coordinate_batch_across_dp(num_tokens_unpadded, *args, **kwargs)
        return result

    counts_of_draft_pass = counts_of_target_pass

    def wait(self) -> None:
        """Returns at once: vLLM's function has waited."""

    def commit(self, commitment: Commitment) -> None:
        """Does nothing: no replica plans by commitments."""

    def report(self) -> dict[str, Any]:
        """Returns an empty report: nothing was counted."""
        return {}

    def reset(self) -> None:
        """Does nothing: nothing was counted."""
