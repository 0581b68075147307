# SPDX-License-Identifier: Apache-2.0
"""Implements Muon for weight matrices (orthogonalised momentum, per head and per expert), AdamW for the rest."""

from collections.abc import Iterable

import torch
from torch import nn

from tiny_model.model import TinyDeepseek

MUON_LR = 0.02
MUON_MOMENTUM = 0.95
MUON_WEIGHT_DECAY = 0.01
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon reference
NEWTON_SCHULZ_STEPS = 5
NUM_WARMUP = 30
NUM_STABLE = 350
COOLDOWN_SHARE = 0.3
ADAM_MATRICES = ("embed_tokens", "lm_head", "mlp.gate.weight")
ADAM_LR = {"embed_tokens": 1e-2, "lm_head": 4e-3, "": 4e-3}


def orthogonalize(update: torch.Tensor) -> torch.Tensor:
    """Returns the nearest semi-orthogonal matrices of ``[N, R, C]`` by Newton-Schulz iteration."""
    transposed = update.shape[-2] > update.shape[-1]
    x = update.mT if transposed else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """Implements Muon over stacks of matrices; ``group["rows"]`` is the row count of one matrix in the stack."""

    def __init__(self, groups: Iterable[dict[str, object]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - MUON_MOMENTUM)
                nesterov = parameter.grad.lerp(momentum, MUON_MOMENTUM)
                columns = parameter.shape[-1]
                update = orthogonalize(nesterov.reshape(-1, group["rows"], columns))
                scale = max(1.0, group["rows"] / columns) ** 0.5
                parameter.mul_(1 - group["lr"] * MUON_WEIGHT_DECAY)
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)


def _matrix_rows(name: str, parameter: nn.Parameter, model: TinyDeepseek) -> int:
    """Returns the rows of one matrix: heads, key against value, and gate against up count as separate matrices."""
    config = model.main.config
    if "q_b_proj" in name:
        return int(config.qk_head_dim)
    if "kv_b_proj" in name:
        return int(config.v_head_dim)
    if "gate_up_proj" in name:
        return parameter.shape[-2] // 2
    return parameter.shape[-2]


def build_optimizers(model: TinyDeepseek) -> list[torch.optim.Optimizer]:
    """Builds Muon and AdamW over all parameters; ``base_lr`` of each group is what the schedule scales."""
    muon_groups: list[dict[str, object]] = []
    adam_groups: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not any(key in name for key in ADAM_MATRICES):
            muon_groups.append({"params": [parameter], "rows": _matrix_rows(name, parameter, model)})
            continue
        lr = next(value for key, value in ADAM_LR.items() if key in name)
        adam_groups.append({"params": [parameter], "lr": lr})
    optimizers: list[torch.optim.Optimizer] = [
        Muon(muon_groups, lr=MUON_LR),
        torch.optim.AdamW(adam_groups, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def schedule(step: int, num_steps: int) -> float:
    """Returns the factor on every learning rate: warm-up, constant, then 1 / step and a linear cooldown at the
    end."""
    cooldown = (num_steps - step) / max(1, round(num_steps * COOLDOWN_SHARE))
    return min(1.0, (step + 1) / NUM_WARMUP, NUM_STABLE / max(step, 1)) * min(1.0, max(0.02, cooldown))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
