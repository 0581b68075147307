# SPDX-License-Identifier: Apache-2.0
"""Requests as a worker sees them, judged by the scheduler's own rule: vLLM's `check_stop`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.utils import length_from_prompt_token_ids_or_embeds
from vllm.v1.core.sched.utils import check_stop


class _Request:
    """The part of vLLM's `Request` that `check_stop` reads and writes."""

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
    """Of vLLM's `NewRequestData`."""
    return int(length_from_prompt_token_ids_or_embeds(new_request.prompt_token_ids, new_request.prompt_embeds))


class EngineRequests:
    """A `History`: appends tokens one by one and stops where the scheduler will.

    Args:
        max_model_len: asked each time, as vLLM fits it to the memory after the model has loaded
            (`max_model_len=-1`).
    """

    def __init__(self, max_model_len: Callable[[], int]) -> None:
        self._max_model_len = max_model_len
        self._requests: dict[str, _Request] = {}

    def start(self, request_id: str, new_request: Any, /) -> None:
        """See `History.start`; of a `NewRequestData`."""
        self._requests[request_id] = _Request(new_request)

    def accept(self, request_id: str, token_ids: list[int]) -> tuple[int, bool]:
        """See `History.accept`."""
        request, max_model_len = self._requests[request_id], self._max_model_len()
        for count, token_id in enumerate(token_ids, 1):
            request.output_token_ids.append(token_id)
            if check_stop(request, max_model_len):
                return count, True
        return len(token_ids), False

    def num_tokens(self, request_id: str) -> int:
        """See `History.num_tokens`."""
        return self._requests[request_id].num_output_tokens

    def forget(self, request_id: str) -> None:
        """See `History.forget`."""
        del self._requests[request_id]
