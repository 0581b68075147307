# SPDX-License-Identifier: Apache-2.0
"""What the collection derives from vLLM's configuration: the longest interval, and the rows of a decode step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.eplb_load.collection import RoutedModel
from vllm_ascend_ext.eplb_load.recorder import INT32_MAX
from vllm_ascend_ext.integration.eplb_load.aggregation import check_interval, decode_rows
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError

MODEL = RoutedModel(("layer",), 256, 8, False)


def _runner(rows: int = 8192, drafts: int = 0, seqs: int = 6, tp: int = 1, sizes: tuple[int, ...] = ()) -> Any:
    return SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=drafts) if drafts else None,
        scheduler_config=SimpleNamespace(max_num_batched_tokens=rows, max_num_seqs=seqs),
        compilation_config=SimpleNamespace(cudagraph_capture_sizes=list(sizes)),
        parallel_config=SimpleNamespace(tensor_parallel_size=tp),
    )


@pytest.mark.parametrize("drafts", [0, 3])
def test_the_longest_interval_is_the_one_that_is_named(drafts: int) -> None:
    """At that interval, and even after as much has stayed for want of a slot, no counter can overflow."""
    runner = _runner(drafts=drafts)
    with pytest.raises(UnsupportedCombinationError, match="set interval to at most") as error:
        check_interval(runner, EplbLoadConfig(interval=10**6), [MODEL])
    longest = int(str(error.value).rpartition(" ")[2])
    check_interval(runner, EplbLoadConfig(interval=longest), [MODEL])
    with pytest.raises(UnsupportedCombinationError):
        check_interval(runner, EplbLoadConfig(interval=longest + 1), [MODEL])
    slots = longest * 8192 * (1 + drafts) * MODEL.top_k
    assert INT32_MAX // 2 - 8192 * (1 + drafts) * MODEL.top_k < slots <= INT32_MAX // 2


@pytest.mark.parametrize(
    ("runner", "expected"),
    [
        (_runner(seqs=6), 6),
        (_runner(seqs=6, drafts=2), 18),
        (_runner(seqs=6, drafts=2, tp=4), 20),
        (_runner(seqs=250, sizes=(1, 8, 248, 256, 512)), 256),
        (_runner(seqs=600, sizes=(1, 512)), 600),
    ],
)
def test_rows_of_a_decode_step_are_rounded_up_as_they_are_padded(runner: Any, expected: int) -> None:
    assert decode_rows(runner) == expected
