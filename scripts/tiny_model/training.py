# SPDX-License-Identifier: Apache-2.0
"""Trains the model: deterministic in seed and step count, resumable from a state file outside the repository."""

import csv
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tiny_model.corpus import WindowSampler
from tiny_model.model import ExpertLoadCounter, TinyDeepseek
from tiny_model.optimizer import build_optimizers, schedule, set_learning_rate

CURVE_COLUMNS = ["step", "tokens", "train_main", "train_mtp", "val_main", "val_mtp", "seconds"]


@dataclass(frozen=True)
class TrainingRecipe:
    """Holds everything that decides the weights besides the corpus and the library versions."""

    num_steps: int
    batch_size: int = 8
    sequence_length: int = 256
    seed: int = 0
    mtp_weight: float = 0.3
    balance_rate: float = 1e-3
    num_balance_steps: int = 700
    grad_clip: float = 1.0
    eval_interval: int = 50
    num_eval_windows: int = 16

    @property
    def window(self) -> int:
        """Returns the tokens of one window: the inputs, the next token and the one after it."""
        return self.sequence_length + 2


def validation_windows(stream_N: torch.Tensor, recipe: TrainingRecipe, num_windows: int) -> torch.Tensor:
    """Returns evenly spaced windows ``[num_windows, L+2]`` of the validation stream."""
    starts = torch.linspace(0, len(stream_N) - recipe.window, num_windows).long().tolist()
    return torch.stack([stream_N[start : start + recipe.window] for start in starts])


@torch.no_grad()
def mean_losses(model: TinyDeepseek, windows_BL: torch.Tensor) -> tuple[float, float]:
    """Returns main and MTP cross entropy over all windows, eight at a time."""
    main_sum = mtp_sum = 0.0
    for chunk_BL in torch.split(windows_BL, 8):
        main_loss, mtp_loss = model.losses(chunk_BL)
        main_sum += main_loss.item() * len(chunk_BL)
        mtp_sum += mtp_loss.item() * len(chunk_BL)
    return main_sum / len(windows_BL), mtp_sum / len(windows_BL)


class Trainer:
    """Owns model, optimizers and curve; ``run`` trains to the last step of the recipe."""

    def __init__(self, model: TinyDeepseek, recipe: TrainingRecipe, state_path: Path) -> None:
        self.model = model
        self.recipe = recipe
        self.state_path = state_path
        self.optimizers = build_optimizers(model)
        self.load_counter = ExpertLoadCounter(model)
        self.step = 0
        self.seconds = 0.0
        self.resumed_at: list[int] = []
        self.curve: list[list[float]] = []

    def save_state(self) -> None:
        """Writes the whole training state, through a temporary file so that a crash keeps the old one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "resumed_at": self.resumed_at,
            "recipe": self.recipe,
        }
        self.state_path.parent.mkdir(parents=True, exist_ok=True)
        partial_path = self.state_path.with_suffix(".partial")
        torch.save(state, partial_path)
        partial_path.replace(self.state_path)

    def load_state(self) -> None:
        """Continues from ``state_path``; the recipe must be the one it was written with."""
        state = torch.load(self.state_path, weights_only=False)
        if state["recipe"] != self.recipe:
            raise ValueError(f"saved state belongs to {state['recipe']}, not to {self.recipe}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]
        self.resumed_at = state["resumed_at"]

    def _train_step(self, window_BL: torch.Tensor) -> tuple[float, float]:
        set_learning_rate(self.optimizers, schedule(self.step, self.recipe.num_steps))
        self.load_counter.reset()
        main_loss, mtp_loss = self.model.losses(window_BL)
        (main_loss + self.recipe.mtp_weight * mtp_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.step < self.recipe.num_balance_steps:
            self.load_counter.update_bias(self.recipe.balance_rate)
        return main_loss.item(), mtp_loss.item()

    def run(self, train_N: torch.Tensor, validation_N: torch.Tensor) -> None:
        """Trains on the stream ``train_N``; logs and saves every ``eval_interval`` steps."""
        recipe = self.recipe
        if self.step:
            self.resumed_at.append(self.step)
        sampler = WindowSampler(train_N, recipe.window, recipe.batch_size, recipe.seed)
        windows = validation_windows(validation_N, recipe, recipe.num_eval_windows)
        recent: list[tuple[float, float]] = []
        start = time.monotonic() - self.seconds
        while self.step < recipe.num_steps:
            recent.append(self._train_step(sampler.batch(self.step)))
            self.step += 1
            if self.step % recipe.eval_interval and self.step != recipe.num_steps:
                continue
            self.load_counter.reset()
            val_main, val_mtp = mean_losses(self.model, windows)
            self.seconds = time.monotonic() - start
            train_main, train_mtp = (sum(values) / len(recent) for values in zip(*recent, strict=True))
            recent.clear()
            num_tokens = self.step * recipe.batch_size * recipe.sequence_length
            losses = [round(loss, 4) for loss in (train_main, train_mtp, val_main, val_mtp)]
            self.curve.append([self.step, num_tokens, *losses, round(self.seconds)])
            imbalance = {key: round(value, 2) for key, value in self.load_counter.imbalance().items()}
            print(dict(zip(CURVE_COLUMNS, self.curve[-1], strict=True)), "imbalance", imbalance, flush=True)
            self.save_state()

    def write_curve(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(CURVE_COLUMNS)
            writer.writerows(self.curve)
