# SPDX-License-Identifier: Apache-2.0
"""Lets a runner of vLLM and its drafter take the replicas' row counts from us: once, when the models are loaded.

Both call vLLM's `coordinate_batch_across_dp` while they decide on a pass. Each of them gets a method of its own in
which that name is ours (`upstream/seams/own_globals.py`). vLLM's modules and the other runners of the process stay
as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.integration.dp_gather.counts.ahead import CountsAhead, attached
from vllm_ascend_ext.integration.dp_gather.counts.overlapped import OverlappedCounts
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import AskedCounts, PassCounts, RowCounts
from vllm_ascend_ext.integration.ranks.groups import own_group
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.own_globals import bind_own_global
from vllm_ascend_ext.integration.upstream.seams.rows import row_counts as seams

_DECIDE = "_determine_batch_execution_and_padding"  # methods of the runner and the drafter
_FUNCTION = "coordinate_batch_across_dp"
_PARAMETERS = (
    "num_tokens_unpadded",
    "allow_microbatching",
    "parallel_config",
    "num_tokens_padded",
    "uniform_decode",
    "cudagraph_mode",
)


def make_counts(runner: Any, config: DpGatherConfig) -> RowCounts:
    """Makes the counts that the configuration asks for, and installs them. Every rank calls it: it makes groups.

    Raises:
        IncompatibleVllmError: see `install_counts`.
    """
    if not (config.counts_ahead or config.overlap_counts):
        return AskedCounts()
    counts: RowCounts = (
        OverlappedCounts(_replicas(config, "DP counts")) if config.overlap_counts else AskedCounts()
    )
    if config.counts_ahead:
        counts = CountsAhead(_replicas(config, "DP commitments"), counts)
        _commit_with_each_step(runner, counts)
    install_counts(runner, counts)
    delay_phase_choice(runner, counts)
    return counts


def install_counts(runner: Any, counts: RowCounts) -> None:
    """Lets `counts` stand for vLLM's function in a runner, and in its drafter if that has passes.

    Raises:
        IncompatibleVllmError: this vLLM asks for its counts elsewhere or otherwise.
    """
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    _bind(runner, counts.counts_of_target_pass)
    drafter = getattr(runner, "drafter", None)
    if isinstance(drafter, SpecDecodeBaseProposer) or hasattr(drafter, _DECIDE):
        _bind(drafter, counts.counts_of_draft_pass)


def _bind(owner: Any, counts_of_pass: Callable[..., PassCounts]) -> None:
    bind_own_global(owner, _DECIDE, _FUNCTION, counts_of_pass, _PARAMETERS)


def delay_phase_choice(runner: Any, counts: RowCounts) -> None:
    """Lets a phase of expert load be chosen once all counts of the pass are there, before the pass."""
    runner.put_wait_for_row_counts(counts.wait)


def _commit_with_each_step(runner: Any, counts: RowCounts) -> None:
    """Hands what the scheduler's output carries about the next pass to the counts, before the step."""

    def committing(execute_model: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(execute_model)
        def execute_committed(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            commitment = attached(scheduler_output)
            if commitment is not None:
                counts.commit(commitment)
            return execute_model(scheduler_output, *args, **kwargs)

        return execute_committed

    change.wrap(seams.EXECUTE_MODEL, runner, committing)


def _replicas(config: DpGatherConfig, name: str) -> Collectives:
    """Makes a group of the replicas of this tensor-parallel rank, in host memory. Every rank calls it."""
    from vllm.distributed import get_dp_group

    return own_group(get_dp_group().ranks, "gloo", config.deadline_s, name)
