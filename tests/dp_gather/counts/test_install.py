# SPDX-License-Identifier: Apache-2.0
"""Our counts in vLLM's own functions: each object has its own, the modules keep vLLM's, and a vLLM that asks
otherwise is refused."""

from __future__ import annotations

import types
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_ascend_ext.integration.dp_gather.counts.install import (
    _DECIDE,
    _FUNCTION,
    _PARAMETERS,
    delay_phase_choice,
    install_counts,
)
from vllm_ascend_ext.integration.dp_gather.counts.row_counts import AskedCounts, PassCounts
from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams.own_globals import bind_own_global
from vllm_ascend_ext.runner.mixin import ExtModelRunner


class FixedCounts(AskedCounts):
    """Says that both replicas have `num_rows` rows, the draft's passes one row more."""

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.num_waits = 0

    def counts_of_target_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        return False, torch.full((2,), self.num_rows, dtype=torch.int32), 0

    def counts_of_draft_pass(self, num_tokens_unpadded: int, *args: Any, **kwargs: Any) -> PassCounts:
        return False, torch.full((2,), self.num_rows + 1, dtype=torch.int32), 0

    def wait(self) -> None:
        self.num_waits += 1


class Dispatcher:
    """Finds no graph."""

    def dispatch(self, num_tokens: int, **_: Any) -> tuple[Any, Any]:
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import BatchDescriptor

        return CUDAGraphMode.NONE, BatchDescriptor(num_tokens=num_tokens)


def drafter() -> Any:
    """vLLM's drafter with what its decision on a pass reads, as replica 1 of 2."""
    from vllm.v1.spec_decode.llm_base_proposer import SpecDecodeBaseProposer

    own = object.__new__(SpecDecodeBaseProposer)
    own.cudagraph_dispatcher, own.dp_rank = Dispatcher(), 1
    own.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_size=2))
    return own


def runner() -> Any:
    """vLLM's runner with what its decision on a pass reads, as replica 1 of 2, and a drafter."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    own = object.__new__(GPUModelRunner)
    own.parallel_config = SimpleNamespace(data_parallel_size=2, data_parallel_rank=1, tensor_parallel_size=1)
    own.vllm_config = SimpleNamespace(
        parallel_config=own.parallel_config, observability_config=SimpleNamespace(cudagraph_metrics=False)
    )
    own.compilation_config = SimpleNamespace(pass_config=SimpleNamespace(enable_sp=False))
    own.model_config = SimpleNamespace(is_encoder_decoder=False)
    own.input_batch = SimpleNamespace(lora_id_to_lora_request={})
    own.uniform_decode_query_len = 1
    own.cudagraph_dispatcher, own.drafter = Dispatcher(), drafter()
    return own


def rows_of(owner: Any) -> tuple[list[int], list[int]]:
    """The counts of a target pass of 3 rows and of a draft pass."""
    import numpy as np

    decide = getattr(owner, _DECIDE)
    _, descriptor, should_ubatch, counts, _ = decide(3, 3, np.array([1, 1, 1]), 1, False)
    assert descriptor.num_tokens == int(counts[1]) and not should_ubatch
    _, num_rows, draft_counts = getattr(owner.drafter, _DECIDE)(3)
    assert num_rows == int(draft_counts[1])
    return counts.tolist(), draft_counts.tolist()


def test_each_runner_has_counts_of_its_own_and_vllms_modules_stay() -> None:
    from vllm.v1.spec_decode import llm_base_proposer
    from vllm.v1.worker import dp_utils, gpu_model_runner

    first, second = runner(), runner()
    install_counts(first, FixedCounts(5))
    install_counts(second, FixedCounts(7))
    assert rows_of(first) == ([5, 5], [6, 6])
    assert rows_of(second) == ([7, 7], [8, 8])
    assert rows_of(first) == ([5, 5], [6, 6])
    install_counts(first, FixedCounts(9))  # replaces the first
    assert (rows_of(first), rows_of(second)) == (([9, 9], [10, 10]), ([7, 7], [8, 8]))
    for module in (gpu_model_runner, llm_base_proposer):
        assert getattr(module, _FUNCTION) is getattr(dp_utils, _FUNCTION)
    assert _DECIDE not in vars(runner())


def test_a_drafter_without_passes_is_left_alone() -> None:
    own = runner()
    own.drafter = SimpleNamespace()
    install_counts(own, FixedCounts(5))
    assert vars(own.drafter) == {}


def test_the_phase_is_chosen_once_the_counts_are_there() -> None:
    counts, own = FixedCounts(5), ExtModelRunner()
    own.wait_for_row_counts()  # without our counts there is nothing to wait for
    delay_phase_choice(own, counts)
    own.wait_for_row_counts()
    assert counts.num_waits == 1


SOURCE = """
def coordinate_batch_across_dp(num_tokens_unpadded, allow_microbatching, parallel_config, num_tokens_padded=None,
                               uniform_decode=None, cudagraph_mode=0):
    return "upstream", other

other = 1

class Runner:
    def decide(self, *, num_rows=2):
        def ask():
            return coordinate_batch_across_dp(num_rows, False, None)
        return [coordinate_batch_across_dp(num_rows, False, None), ask(), other, len("abc"), __class__.__name__]
"""


def module_of(source: str) -> Any:
    module = types.ModuleType("planted")
    exec(compile(source, "planted.py", "exec"), module.__dict__)
    return module


def bind(owner: Any, value: Any = lambda *args: args, method: str = "decide") -> None:
    bind_own_global(owner, method, _FUNCTION, value, _PARAMETERS)


def test_all_other_names_are_the_modules_at_the_time_of_the_call() -> None:
    module = module_of(SOURCE)
    owner, other = module.Runner(), module.Runner()
    bind(owner)
    module.other = 2
    assert owner.decide(num_rows=4) == [(4, False, None), (4, False, None), 2, 3, "Runner"]
    assert owner.decide()[0] == (2, False, None)  # with the defaults, docstring and name of vLLM's
    assert other.decide()[0] == ("upstream", 2)
    assert owner.decide.__name__ == "decide" and owner.decide.__self__ is owner


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("def decide", "def choose", "Runner.decide is gone"),
        ("coordinate_batch_across_dp(num_rows", "self.coordinate_batch_across_dp(num_rows", "does not call"),
        (
            "coordinate_batch_across_dp(num_tokens",
            "renamed(num_tokens",
            "which its module has not",
        ),
        ("uniform_decode=None, ", "", "with parameters num_tokens_unpadded, .*, cudagraph_mode. Install vllm=="),
        ("cudagraph_mode=0)", "cudagraph_mode=0, added=1)", "with parameters .* added"),
        ("    def decide", "    @staticmethod\n    def decide", "is not a method"),
    ],
)
def test_a_vllm_that_asks_otherwise_is_refused(before: str, after: str, problem: str) -> None:
    assert before in SOURCE
    owner = module_of(SOURCE.replace(before, after)).Runner()
    with pytest.raises(IncompatibleVllmError, match=problem) as error:
        bind(owner)
    assert "vllm-ascend-ext" in str(error.value) and "decide" not in vars(owner)
