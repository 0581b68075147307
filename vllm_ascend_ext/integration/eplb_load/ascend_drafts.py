# SPDX-License-Identifier: Apache-2.0
"""Reports the runs of vllm-ascend's draft model, of which a captured graph may hold all passes.

vllm-ascend 0.23.0's proposer runs the passes of a step in one call, `_runnable`: the function `_run_merged_draft`,
or with full graphs a wrapper of it that captures and replays the whole. Proposals and dummy runs go through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import eplb_load as seams


def num_passes(drafter: Any) -> int:
    """Returns the passes of a run, one a draft; 0 for a proposer that runs otherwise than MTP's does."""
    from vllm_ascend.spec_decode.llm_base_proposer import AscendSpecDecodeBaseProposer

    merged = getattr(type(drafter), "_run_merged_draft", None)
    if merged is not AscendSpecDecodeBaseProposer._run_merged_draft or drafter.method != "mtp":
        return 0
    return 1 if drafter.parallel_drafting else int(drafter.num_speculative_tokens)


def watch(runner: Any, begin: Callable[[int, int, int], None]) -> None:
    """Calls `begin` before each run of the passes.

    Args:
        runner: the model runner, its draft model loaded.
        begin: function of the rows of the first pass and of each later one that may be real, and of the rows of
            each pass. With full graphs the proposer's own numbers include padding, so the caller cuts them to the
            step's.
    """

    def watched(run: Callable[..., Any]) -> Callable[..., Any]:
        def begin_and_run(**inputs: Any) -> Any:
            begin(inputs["num_tokens"], inputs["batch_size"], inputs["num_input_tokens"])
            return run(**inputs)

        return begin_and_run

    change.wrap(seams.DRAFT_RUN, runner.drafter, watched)
