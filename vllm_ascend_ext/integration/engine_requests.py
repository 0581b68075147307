# SPDX-License-Identifier: Apache-2.0
"""Requests as a worker sees them, judged by the scheduler's own rule: vLLM's `check_stop`."""

from __future__ import annotations

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
    return int(
        length_from_prompt_token_ids_or_embeds(new_request.prompt_token_ids, new_request.prompt_embeds)
    )


class EngineRequests:
    """A `History`: appends tokens one by one and stops where the scheduler will."""

    def __init__(self, max_model_len: int) -> None:
        self._max_model_len = max_model_len
        self._requests: dict[str, _Request] = {}
        self._announced: dict[str, _Request] = {}

    def announce(self, new_request: Any) -> None:
        """A `NewRequestData` of a step to come; steps before it may still bring tokens of another of its id."""
        self._announced[new_request.req_id] = _Request(new_request)

    def start(self, request_id: str) -> None:
        """See `History.start`."""
        self._requests[request_id] = self._announced.pop(request_id)

    def accept(self, request_id: str, token_ids: list[int]) -> tuple[int, bool]:
        """See `History.accept`."""
        request = self._requests[request_id]
        for count, token_id in enumerate(token_ids, 1):
            request.output_token_ids.append(token_id)
            if check_stop(request, self._max_model_len):
                return count, True
        return len(token_ids), False

    def num_tokens(self, request_id: str) -> int:
        """See `History.num_tokens`."""
        return self._requests[request_id].num_output_tokens

    def forget(self, request_id: str) -> None:
        """See `History.forget`."""
        del self._requests[request_id]
