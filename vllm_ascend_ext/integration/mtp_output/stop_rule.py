# SPDX-License-Identifier: Apache-2.0
"""Decides on the worker where a request stops, by the scheduler's own rule: vLLM's `check_stop`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.utils import length_from_prompt_token_ids_or_embeds
from vllm.v1.core.sched.utils import check_stop


class _Request:
    """Holds the part of vLLM's `Request` that `check_stop` reads and writes."""

    pooling_params = None
    status: Any = None
    stop_reason: Any = None

    def __init__(self, new_request: Any) -> None:
        self.sampling_params = new_request.sampling_params
        self.max_tokens = self.sampling_params.max_tokens
        self.num_prompt_tokens = num_prompt_tokens(new_request)
        self.output_token_ids: list[int] = []

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + len(self.output_token_ids)


def num_prompt_tokens(new_request: Any) -> int:
    """Returns the length of the prompt of a `NewRequestData` of vLLM, in tokens."""
    return int(length_from_prompt_token_ids_or_embeds(new_request.prompt_token_ids, new_request.prompt_embeds))


class EngineRequests:
    """Implements `History`: appends tokens one by one and stops where the scheduler will.

    Args:
        max_model_len: function that returns the longest sequence in tokens, called at each step, as vLLM fits the
            length to the memory after the model has loaded (`max_model_len=-1`).
    """

    def __init__(self, max_model_len: Callable[[], int]) -> None:
        self._max_model_len = max_model_len
        self._requests: dict[str, _Request] = {}

    def start(self, request_id: str, new_request: Any, /) -> None:
        """Begins a request, from a `NewRequestData` of vLLM."""
        self._requests[request_id] = _Request(new_request)

    def accept(self, request_id: str, token_ids: list[int]) -> tuple[int, bool]:
        """Returns how many of a step's tokens count, and whether the request then ends."""
        request, max_model_len = self._requests[request_id], self._max_model_len()
        for count, token_id in enumerate(token_ids, 1):
            request.output_token_ids.append(token_id)
            if check_stop(request, max_model_len):
                return count, True
        return len(token_ids), False

    def num_tokens(self, request_id: str) -> int:
        """Returns how many output tokens were taken up so far."""
        return self._requests[request_id].num_output_tokens

    def forget(self, request_id: str) -> None:
        """Drops a request that has ended."""
        del self._requests[request_id]
