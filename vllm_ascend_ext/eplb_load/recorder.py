# SPDX-License-Identifier: Apache-2.0
"""Counts the tokens routed to each expert of each layer, on the device, with padding left out.

Shapes: L = MoE layers, E = experts, T = rows (padding included), K = experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_ascend_ext.ops import expert_load_adder

INT32_MAX = 2**31 - 1


class LoadOverflowError(OverflowError):
    """Reports that one more step could overflow an int32 counter."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalLoad:
    """Holds what this rank has counted since the counters were last emptied.

    Attributes:
        load_LE: ``[L, E]`` int64 on the host, routed tokens.
        num_tokens: tokens of all steps; a layer's row of `load_LE` sums to ``num_tokens * K`` when every
            routed id named an expert.
        num_steps: number of steps, the calls of `ExpertLoadRecorder.begin_step`.
    """

    load_LE: torch.Tensor  # noqa: N815
    num_tokens: int
    num_steps: int


class ExpertLoadRecorder:
    """Counts routed tokens in persistent memory, on the main stream, by operators that a graph can capture.

    Before each step, outside graphs, the runner calls `begin_step`; in the step every MoE layer calls
    `record` once, or, when the step is split, several times with token counts that sum to the step's.

    Args:
        num_layers: L, at least 1.
        num_experts: E, at least 1.
        device: the device where routing happens.
        max_routed_ids: routed ids (tokens times top-k) that a counter may hold; less than INT32_MAX when counters
            of several ranks are added up in int32.

    Attributes:
        load_LE: ``[L, E]`` int32 on `device`; the same storage for life.
        num_tokens: 0-d int32 on `device`, the tokens of the present step; the same storage for life.
    """

    def __init__(
        self, num_layers: int, num_experts: int, device: torch.device, max_routed_ids: int = INT32_MAX
    ) -> None:
        if num_layers < 1 or num_experts < 1:
            raise ValueError(f"num_layers and num_experts are at least 1, not {num_layers} and {num_experts}")
        if not 1 <= max_routed_ids <= INT32_MAX:
            raise ValueError(f"max_routed_ids={max_routed_ids} is not in [1, {INT32_MAX}]")
        self.max_routed_ids = max_routed_ids
        self._add = expert_load_adder(device.type)
        self.load_LE = torch.zeros(num_layers, num_experts, dtype=torch.int32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.int32, device=device)
        self._rows_E = [self.load_LE[layer] for layer in range(num_layers)]  # views, made once
        self._present_tokens = 0  # what `num_tokens` holds once the device is there
        self._total_tokens = 0
        self._num_steps = 0
        self._largest_top_k = 1

    def begin_step(self, num_tokens: int) -> None:
        """Sets the number of real tokens of the step; 0 for a dummy step.

        Raises:
            ValueError: a negative number.
            LoadOverflowError: the step could overflow a counter; nothing has changed.
        """
        self.expect([num_tokens])
        if num_tokens != self._present_tokens:
            self.num_tokens.fill_(num_tokens)
            self._present_tokens = num_tokens

    def expect(self, num_tokens_S: Sequence[int]) -> None:  # noqa: N803
        """Adds steps to the totals, for a caller that gives `record` scalars of its own instead of `num_tokens`.

        Args:
            num_tokens_S: real tokens of each step.

        Raises:
            ValueError: a negative number.
            LoadOverflowError: the steps could overflow a counter; nothing has changed.
        """
        if negative := [number for number in num_tokens_S if number < 0]:
            raise ValueError(f"num_tokens={negative[0]} is negative")
        self._check_overflow(self._total_tokens + sum(num_tokens_S), self._largest_top_k)
        self._total_tokens += sum(num_tokens_S)
        self._num_steps += len(num_tokens_S)

    def record(self, layer: int, topk_ids_TK: torch.Tensor, num_tokens: torch.Tensor | None = None) -> None:
        """Counts one layer's routing. Touches only persistent buffers and never waits for the device.

        Args:
            layer: index of the layer, in ``[0, L)``.
            topk_ids_TK: ``[T, K]`` int32 or int64 on the device.
            num_tokens: int32 scalar on the device, the rows that count, when they are not all of the step's.

        Raises:
            IndexError: no such layer.
            ValueError, TypeError: see `expert_load_add_`.
            LoadOverflowError: the step could overflow a counter; nothing was counted.
        """
        if not 0 <= layer < len(self._rows_E):
            raise IndexError(f"layer {layer} is not one of the {len(self._rows_E)} recorded layers")
        top_k = topk_ids_TK.shape[-1] if topk_ids_TK.dim() else 0
        if top_k > self._largest_top_k:
            self._check_overflow(self._total_tokens, top_k)
            self._largest_top_k = top_k
        self._add(self._rows_E[layer], topk_ids_TK, self.num_tokens if num_tokens is None else num_tokens)

    @property
    def num_routed_ids(self) -> int:
        """Returns the routed ids since the counters were last emptied: no counter holds more."""
        return self._total_tokens * self._largest_top_k

    def take_into(self, load_LE: torch.Tensor) -> int:
        """Moves the counts into `load_LE` and starts from zero, on the current stream, without waiting for it.

        Args:
            load_LE: ``[L, E]`` int32 on the device, overwritten.

        Returns:
            Tokens of the steps that were moved. The present step's `num_tokens` stays as it is.
        """
        load_LE.copy_(self.load_LE)
        self.load_LE.zero_()
        num_tokens, self._total_tokens, self._num_steps = self._total_tokens, 0, 0
        return num_tokens

    def read(self) -> LocalLoad:
        """Copies the counts to the host, waiting for the device."""
        return LocalLoad(self.load_LE.cpu().long(), self._total_tokens, self._num_steps)

    def reset(self) -> None:
        """Zeroes all counts and the present step's number of tokens. Call it between steps."""
        self.load_LE.zero_()
        self.num_tokens.zero_()
        self._present_tokens = 0
        self._total_tokens = 0
        self._num_steps = 0

    def _check_overflow(self, total_tokens: int, top_k: int) -> None:
        """Raises where a counter could overflow: it holds at most all routed ids, and all may name one expert."""
        if total_tokens * top_k > self.max_routed_ids:
            raise LoadOverflowError(
                f"{total_tokens} tokens with top-{top_k} routing could overflow an int32 counter "
                f"(at most {self.max_routed_ids}): call take_into(), or read() and reset(), before"
            )
