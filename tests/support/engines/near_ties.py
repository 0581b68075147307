# SPDX-License-Identifier: Apache-2.0
"""Follows an engine's tokens with a network whose activations are rounded to integers, and tells ties apart.

Two programs that add floats in another order now and then round an activation to the other of two integers. That
moves what comes later by about a thousandth, so a row whose experts are nearly tied may be routed otherwise, and
of two tokens with nearly equal logits the other may be chosen. Experts that are tied are found by asking the
router again with noise that is many times that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

NOISE = 0.02  # of the root mean square of what a router reads
NUM_TRIES = 24
TIE = 0.03  # of logits whose standard deviation is about 5
TIE_BFLOAT16 = 0.3  # where layers round to bfloat16


@dataclass(frozen=True)
class Followed:
    """Holds what the network says of an engine's tokens.

    num_others: tokens that are not the network's choice after the engine's tokens before them. largest_gap: by how
    much the network's logit of its own choice is above that of the engine's, at most. least, most: rows by layer
    and expert, [L][E], that are routed to it whatever the noise, and with some noise.
    """

    num_others: int
    largest_gap: float
    least: list[list[int]]
    most: list[list[int]]

    def assert_tokens(self, tie: float = TIE, most_others: int = 2) -> None:
        """Raises AssertionError for a token that is not the network's choice, unless the logits of both differ by
        `tie` at most, and for more than `most_others` of those."""
        assert self.largest_gap <= tie
        assert self.num_others <= most_others

    def assert_all_of(self, load_LE: list[list[int]]) -> None:
        """Raises AssertionError where a load of just these rows lies outside, or where the bounds tell little."""
        for least_E, load_E, most_E in zip(self.least, load_LE, self.most, strict=True):
            assert all(least <= load <= most for least, load, most in zip(least_E, load_E, most_E, strict=True))
            assert sum(most_E) - sum(least_E) <= 0.3 * sum(load_E)

    def assert_part_of(self, load_LE: list[list[int]]) -> None:
        """Raises AssertionError where a load of these and more rows is less than what is sure."""
        for least_E, load_E in zip(self.least, load_LE, strict=True):
            assert all(least <= load for least, load in zip(least_E, load_E, strict=True))


def follow(
    model: str,
    prompts: list[list[int]],
    token_ids: list[tuple[int, ...]],
    load_network: Callable[[str], Any],
    steps: list[tuple[list[int], int]] | None = None,
) -> Followed:
    """Runs each prompt with its completion in transformers, in a process of its own, and the rows that count.

    load_network: makes the network of the model's folder. steps: sequences, each with its first token whose row
    counts; by default all rows of the prompts and completions count.
    """

    def job(rank: Rank) -> Followed:
        import torch

        torch.manual_seed(0)
        network = load_network(model)
        routers = [m for m in network.modules() if type(m).__name__.lower().endswith("topkrouter")]
        bounds = torch.zeros(2, len(routers), routers[0].weight.shape[0], dtype=torch.int64)
        gaps = []
        for prompt, tokens in zip(prompts, token_ids, strict=True):
            with torch.inference_mode():
                logits = network(torch.tensor([[*prompt, *tokens[:-1]]])).logits[0, len(prompt) - 1 :]
            gaps.append(logits.amax(-1) - logits.gather(-1, torch.tensor(tokens)[:, None])[:, 0])
        first = 0
        for layer, router in enumerate(routers):
            router.register_forward_hook(_count(bounds[:, layer], lambda: first))
        whole = [([*prompt, *tokens[:-1]], 0) for prompt, tokens in zip(prompts, token_ids, strict=True)]
        for sequence, begin in whole if steps is None else steps:
            first = begin
            with torch.inference_mode():
                network(torch.tensor([sequence]))
        gap = torch.cat(gaps)
        return Followed(int((gap > 0).sum()), float(gap.max()), *bounds.tolist())

    return run_ranks(job, Layout(), deadline_s=300)[0]


def _count(bounds_2E: Any, first: Callable[[], int]) -> Callable[[Any, Any, Any], None]:
    """Returns a hook that adds the rows that a router gives to each expert: surely, and perhaps. first: tells the
    first row that counts in the present pass."""
    import torch

    def hook(router: Any, inputs: Any, outputs: Any) -> None:
        (x,) = inputs
        size = NOISE * x.square().mean(-1, keepdim=True).sqrt()
        num_chosen = torch.zeros(outputs[2].shape[0], bounds_2E.shape[1])
        for _ in range(NUM_TRIES):
            ids = router.forward(x + size * torch.randn_like(x))[2]
            num_chosen.scatter_add_(1, ids, torch.ones_like(ids, dtype=num_chosen.dtype))
        counted = num_chosen[first() :]
        bounds_2E.add_(torch.stack([(counted == NUM_TRIES).sum(0), (counted > 0).sum(0)]))

    return hook
