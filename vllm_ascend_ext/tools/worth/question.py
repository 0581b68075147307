# SPDX-License-Identifier: Apache-2.0
"""Says what is asked: which model, on which machine, in which layout, in a step of which size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllm_ascend_ext.dp_gather.machine import MachineError
from vllm_ascend_ext.dp_gather.plan_rows import PlanInputError
from vllm_ascend_ext.machines.known import KNOWN, KnownMachine
from vllm_ascend_ext.machines.rates import Rates
from vllm_ascend_ext.tools.worth.model_sizes import ModelSizes


@dataclass(frozen=True, slots=True)
class Question:
    """Holds one question.

    Attributes:
        sizes: sizes of the model.
        machine: the machine.
        tp, dp: ranks that split a replica, and replicas.
        tokens: rows of a replica in the step.
        weights: what matrix products are of: "bf16", "int8" or "fp8".
        prompt: tokens of each prompt in the step, for the attention itself.
        requests: requests that a replica decodes at once, for MTP output.
        imbalance: load of the busiest rank's experts over the average, for expert load.

    Raises:
        PlanInputError: sizes that are not positive, that do not divide each other, or a machine without the unit.
    """

    sizes: ModelSizes
    machine: KnownMachine
    tp: int
    dp: int
    tokens: int
    weights: str = "bf16"
    prompt: int = 2048
    requests: int = 256
    imbalance: float = 1.25

    def __post_init__(self) -> None:
        for name in ("tp", "dp", "tokens", "prompt", "requests"):
            if getattr(self, name) < 1:
                raise PlanInputError(f"--{name} {getattr(self, name)}: give a number above 0")
        if not 1 <= self.imbalance < math.inf:
            raise PlanInputError(f"--imbalance {self.imbalance:g}: the busiest rank has at least the average, 1")
        attention = self.sizes.attention
        if attention.heads % self.tp or (attention.kv_heads % self.tp and self.tp % attention.kv_heads):
            raise PlanInputError(
                f"--tp {self.tp} does not divide the {attention.heads} attention heads of {self.sizes.name}"
                + ("" if attention.heads % self.tp else f", of which {attention.kv_heads} have keys and values")
            )
        if self.rates.matrix(self.weights) is None:
            raise PlanInputError(f"--weights {self.weights}: {self.machine.name} has no unit for such matrices")

    @property
    def rates(self) -> Rates:
        return self.machine.rates

    @property
    def on_shards(self) -> bool:
        """Returns whether vLLM runs the experts sequence-parallel."""
        return self.tp > 1 and self.dp > 1

    def products_s(self, num_weights: int) -> float:
        """Returns the time of matrix products of the step's rows with `num_weights` weights that the ranks share
        out."""
        rate = self.rates.matrix(self.weights)
        assert rate is not None  # checked above
        return 2 * self.tokens * num_weights / self.tp / rate

    @property
    def rest_s(self) -> float:
        """Returns the least time of what no feature changes: matrix products that the ranks share out, and
        attention."""
        attention = self.sizes.attention_flops(self.tokens, min(self.prompt, self.tokens))
        return self.products_s(self.sizes.shared_out) + attention / self.tp / self.rates.flops


def machine_named(name: str) -> KnownMachine:
    """Returns a machine by its name.

    Raises:
        MachineError: there is none of that name.
    """
    if name not in KNOWN:
        raise MachineError(f"--machine {name}: the machines that are known are {', '.join(KNOWN)}")
    return KNOWN[name]
