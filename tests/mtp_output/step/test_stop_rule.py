# SPDX-License-Identifier: Apache-2.0
"""A worker's view of a request ends where vLLM's own `Request` ends under its scheduler, on random tokens."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.sampling_params import RepetitionDetectionParams, SamplingParams  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402
from vllm.v1.request import Request  # noqa: E402

from vllm_ascend_ext.integration.mtp_output.stop_rule import EngineRequests  # noqa: E402

MAX_MODEL_LEN = 30
EOS = 3


def sampling(kind: int) -> SamplingParams:
    """Ends of every kind."""
    options: list[dict[str, Any]] = [
        {},
        {"min_tokens": 6},
        {"stop_token_ids": [1, 2], "min_tokens": 2},
        {"ignore_eos": True},
        {"repetition_detection": RepetitionDetectionParams(max_pattern_size=2, min_count=3), "ignore_eos": True},
    ]
    params = SamplingParams(max_tokens=4 + kind * 5, **options[kind])
    params.update_from_generation_config({}, eos_token_id=None if params.ignore_eos else EOS)
    return params


@pytest.mark.parametrize("kind", range(5))
def test_ends_where_the_scheduler_ends(kind: int) -> None:
    scheduler = SimpleNamespace(max_model_len=MAX_MODEL_LEN)
    generator, ends = random.Random(kind), 0
    for trial in range(200):
        prompt, params = list(range(generator.randint(1, 12))), sampling(kind)
        theirs = Request(request_id="a", prompt_token_ids=prompt, sampling_params=params, pooling_params=None)
        ours = EngineRequests(lambda: MAX_MODEL_LEN)
        ours.start("a", SimpleNamespace(prompt_token_ids=prompt, prompt_embeds=None, sampling_params=params))
        is_finished = False
        while not is_finished:
            tokens = [generator.randint(0, 9 if trial % 2 else 4) for _ in range(generator.randint(1, 4))]
            count, is_finished = ours.accept("a", list(tokens))
            kept, stopped = Scheduler._update_request_with_output(scheduler, theirs, list(tokens))
            assert (tokens[:count], is_finished) == (kept, stopped)
            assert ours.num_tokens("a") == theirs.num_output_tokens
            ends += is_finished and count < len(tokens)
        ours.forget("a")
    assert ends > 20  # in the middle of a step


def test_a_length_that_is_fitted_later_counts() -> None:
    """`max_model_len=-1`: the engine tells its workers what fits once the model has loaded."""
    runner = SimpleNamespace(max_model_len=4096)
    requests = EngineRequests(lambda: runner.max_model_len)
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    requests.start("a", SimpleNamespace(prompt_token_ids=[1, 2], prompt_embeds=None, sampling_params=params))
    runner.max_model_len = 6
    assert requests.accept("a", [7, 7, 7]) == (3, False)
    assert requests.accept("a", [7, 7, 7]) == (1, True)
