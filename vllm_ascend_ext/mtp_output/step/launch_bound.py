# SPDX-License-Identifier: Apache-2.0
"""Bounds how many tokens the next launch has, before the device has said how this one went.

Under asynchronous scheduling the next step is prepared while the present one runs, so that nobody on the host
knows how many drafts were accepted, or who has stopped. What can be said without waiting:

    bound = num_live · (k + 1) + prompt tokens that are known to be launched

`num_live` counts requests that decode: those that the newest counts which have arrived show alive, and those that
joined since. Counts that are late name requests that have stopped since, which makes the bound larger, never
smaller.

The formula that this replaces, `Σ lens + Σ blocked · (k + 1)` with this step's lens, is no bound: a request that
comes from a prefill instance has 2 tokens in its first step and k + 1 in the next, and one near the end of its
cache fewer now than then (https://github.com/PaddlePaddle/FastDeploy/pull/7172).
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_ascend_ext.drafts import decode_tokens


class LaunchBoundError(RuntimeError):
    """Reports a launch with more tokens than was said: buffers sized by the bound would overflow."""


class LaunchBound:
    """Keeps the requests of one replica, by id, and the most tokens each can have in the next launch.

    Between two launches, in any order: `prefill`, `resume`, `insert`, `preempt`, `finish`, `reset`; then `check`
    with the launch's tokens, which begins the next. All ranks of the replica call these alike; `counts_arrived` is
    for those that have the counts (in the engine, the one that sends), whose bound is then the smaller one.

    Args:
        num_speculative_tokens: k.

    Attributes:
        step: number of the newest launch, counted from 1.
    """

    def __init__(self, num_speculative_tokens: int) -> None:
        if num_speculative_tokens < 0:
            raise ValueError(f"num_speculative_tokens={num_speculative_tokens} is negative")
        self.step = 0
        self._decode_tokens = decode_tokens(num_speculative_tokens)
        self._decoding: dict[str, int] = {}  # request → the step since which it decodes
        self._prompts: dict[str, tuple[int, bool]] = {}  # launched next: (tokens, whether it then decodes)

    @staticmethod
    def largest(max_num_seqs: int, num_speculative_tokens: int) -> int:
        """Returns the bound of a launch in which all requests decode; buffers are sized by it."""
        return max_num_seqs * decode_tokens(num_speculative_tokens)

    @property
    def num_live(self) -> int:
        """Returns how many requests decode in the next launch, as far as is known."""
        return len(self._decoding)

    @property
    def bound(self) -> int:
        """Returns the most tokens that the next launch can have."""
        return self.num_live * self._decode_tokens + sum(tokens for tokens, _ in self._prompts.values())

    def prefill(self, request_id: str, num_tokens: int, *, is_last: bool) -> None:
        """Notes that the next launch has `num_tokens` (>= 1) of the request's prompt; the request then decodes if
        they are the last."""
        if num_tokens < 1:
            raise ValueError(f"request {request_id!r}: a prefill of {num_tokens} tokens")
        self._decoding.pop(request_id, None)
        self._prompts[request_id] = (num_tokens, is_last)

    def resume(self, request_id: str) -> None:
        """Notes that a preempted request decodes again: its cache is still there. (Without a cache it is a
        `prefill`.)"""
        self.insert(request_id)

    def insert(self, request_id: str) -> None:
        """Notes that a request that was prefilled elsewhere decodes from the next launch on."""
        self._prompts.pop(request_id, None)
        self._decoding[request_id] = self.step + 1

    def preempt(self, request_id: str) -> None:
        """Notes that the request is in no launch until it is resumed, inserted or prefilled again."""
        self.finish(request_id)

    def finish(self, request_id: str) -> None:
        """Notes that the request is in no launch any more. Unknown ones are ignored: counts may have said so
        before."""
        self._decoding.pop(request_id, None)
        self._prompts.pop(request_id, None)

    def reset(self) -> None:
        """Forgets all requests. The step goes on."""
        self._decoding.clear()
        self._prompts.clear()

    def counts_arrived(self, step: int, num_tokens: Mapping[str, int]) -> None:
        """Takes in what the device said about a launch, possibly long ago.

        Args:
            step: number of that launch.
            num_tokens: tokens of each request in that launch, for the launch after it; 0: it has stopped. Those
                that began to decode since are not affected.
        """
        for request_id, count in num_tokens.items():
            if count == 0 and self._decoding.get(request_id, step + 1) <= step:
                self._decoding.pop(request_id, None)

    def check(self, actual: int) -> int:
        """Checks the next launch, which has `actual` tokens; afterwards the bound is that of the launch after it.

        Returns:
            The bound that was kept.

        Raises:
            LaunchBoundError: it was not.
        """
        bound = self.bound
        self.step += 1
        if actual > bound:
            raise LaunchBoundError(
                f"launch {self.step} has {actual} tokens, but {self.num_live} live requests of up to "
                f"{self._decode_tokens} and {len(self._prompts)} prompts bound it by {bound}"
            )
        for request_id, (_, is_last) in self._prompts.items():
            if is_last:
                self._decoding[request_id] = self.step
        self._prompts.clear()
        return bound
