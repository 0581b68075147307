# SPDX-License-Identifier: Apache-2.0
"""Numbers about a trained model: held-out loss, draft acceptance, expert load, completions, export parity."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tiny_model.model import ExpertLoadCounter, TinyDeepseek
from tiny_model.training import TrainingRecipe, mean_losses, validation_windows

COMPLETION_PROMPTS = (
    "import os\n\ndef ",
    "class Foo:\n    def __init__(self",
    "for i in range(",
    "    if not isinstance(",
)
NUM_COMPLETION_TOKENS = 48
NUM_PROMPT_TOKENS = 64
NUM_PARITY_TOKENS = 32


@dataclass(frozen=True)
class Evaluation:
    """Holds what ``evaluate`` measured; ``imbalance`` is largest over mean expert load by layer index."""

    val_main: float
    val_mtp: float
    acceptance_greedy: float
    acceptance_text: float
    imbalance: dict[int, float]
    completions: dict[str, str]


@torch.no_grad()
def greedy(model: PreTrainedModel, ids_BL: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Prompts ``[B, L]`` followed by exactly ``num_tokens`` greedy tokens (the end token is not taken)."""
    sequences: torch.Tensor = model.generate(
        ids_BL,
        attention_mask=torch.ones_like(ids_BL),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
    )
    return sequences


@torch.no_grad()
def draft_acceptance(model: TinyDeepseek, windows_BL: torch.Tensor) -> tuple[float, float]:
    """Returns the share of drafts equal to the target's choice: along its own greedy continuation, and along the
    text."""
    num_prompt = NUM_PROMPT_TOKENS
    sequences = greedy(model.main, windows_BL[:, :num_prompt], 128)
    _, draft = model(sequences)
    drafted = model.main.lm_head(draft[:, num_prompt - 1 : -1]).argmax(-1)
    on_greedy = (drafted == sequences[:, num_prompt + 1 :]).float().mean().item()
    hidden, draft = model(windows_BL)
    target = model.main.lm_head(hidden[:, 1:]).argmax(-1)
    drafted = model.main.lm_head(draft[:, :-1]).argmax(-1)
    return on_greedy, (drafted == target).float().mean().item()


def complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """Returns the greedy continuation of ``prompt``, without the prompt."""
    ids_BL = tokenizer(prompt, return_tensors="pt")["input_ids"]
    tokens = greedy(model, ids_BL, NUM_COMPLETION_TOKENS)[0, ids_BL.shape[1] :]
    return str(tokenizer.decode(tokens))


def evaluate(
    model: TinyDeepseek,
    tokenizer: PreTrainedTokenizerBase,
    validation_N: torch.Tensor,
    recipe: TrainingRecipe,
) -> Evaluation:
    """Measures ``model`` on 128 windows of the validation stream (32 of them for acceptance)."""
    model.eval()
    windows = validation_windows(validation_N, recipe, 128)
    load_counter = ExpertLoadCounter(model)
    val_main, val_mtp = mean_losses(model, windows)
    imbalance = load_counter.imbalance()
    on_greedy, on_text = draft_acceptance(model, windows[::4])
    completions = {prompt: complete(model.main, tokenizer, prompt) for prompt in COMPLETION_PROMPTS}
    return Evaluation(val_main, val_mtp, on_greedy, on_text, imbalance, completions)


def check_export(model: TinyDeepseek, out_dir: Path, validation_text: str) -> None:
    """Raises unless the files under ``out_dir`` load in transformers and decode as ``model`` does."""
    tokenizer = AutoTokenizer.from_pretrained(out_dir)
    for text in (validation_text, "\n\t x  =  1\r\n\u00e9\u6f22\t\t\n", *COMPLETION_PROMPTS):
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise ValueError(f"tokenizer does not round-trip {text[:40]!r}")
    loaded, info = AutoModelForCausalLM.from_pretrained(out_dir, dtype=torch.float32, output_loading_info=True)
    mtp_prefix = f"model.layers.{model.main.config.num_hidden_layers}."
    foreign = [name for name in info["unexpected_keys"] if not name.startswith(mtp_prefix)]
    if info["missing_keys"] or info["mismatched_keys"] or foreign:
        raise ValueError(f"keys do not match: missing {info['missing_keys']}, unexpected {foreign}")
    for prompt in COMPLETION_PROMPTS:
        ids_BL = tokenizer(prompt, return_tensors="pt")["input_ids"]
        expected = greedy(model.main.eval(), ids_BL, NUM_PARITY_TOKENS)
        if not torch.equal(greedy(loaded, ids_BL, NUM_PARITY_TOKENS), expected):
            raise ValueError(f"exported model continues {prompt!r} differently")
