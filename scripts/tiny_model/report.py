# SPDX-License-Identifier: Apache-2.0
"""Writes ``TRAINING.md`` and the loss curve of a finished run."""

import platform
from importlib.metadata import version
from pathlib import Path

import matplotlib
import torch

from tiny_model.corpus import VALIDATION_FILES, Corpus
from tiny_model.evaluation import NUM_COMPLETION_TOKENS, Evaluation
from tiny_model.export import checkpoint_tensors
from tiny_model.model import TinyDeepseek
from tiny_model.optimizer import ADAM_LR, COOLDOWN_SHARE, MUON_LR, NUM_STABLE, NUM_WARMUP
from tiny_model.training import CURVE_COLUMNS, Trainer

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

TEMPLATE = """# How this model was trained

`model.safetensors` is a DeepSeek-V3 with one multi-token-prediction (MTP) layer, trained from scratch by
`scripts/train_tiny_model.py` on the source code of the Python standard library. It exists to test and
demonstrate serving: real routing, real expert load, real draft acceptance, in {megabytes:.1f} MB.

## Reproduce

```
python scripts/train_tiny_model.py
```

The defaults are the recipe of this folder: one thread, {steps} steps, {minutes:.0f} minutes on one shared CPU
core. A run saves its state among the system's temporary files every {interval} steps and continues with
`--resume`; `--evaluate` exports and measures a saved state again.
Seeds, data order and step count are fixed, so that a run repeats itself on the same machine with the same
library versions. Other processors round differently and end with other weights of like quality.

| | |
|---|---|
| Python / torch / transformers / tokenizers | {versions} |
| seed | {seed} |
| resumed at steps | {resumed_at} |
| corpus | `*.py` of the standard library, {num_files} files, {num_bytes:,} bytes |
| corpus digest (SHA-256 of paths and contents) | `{digest}` |
| left out | site-packages, idlelib, lib2to3, tests, encodings, pydoc_data, files above 180 kB |
| held out for validation | {held_out} |
| tokenizer | byte-level BPE trained on the training files, {vocab} entries, {num_tokens:,} training tokens |

## Recipe

- Architecture: transformers' `DeepseekV3ForCausalLM` ({layers} layers, hidden {hidden}, MLA with
  DeepSeek-V3's head and latent widths, {experts} experts in {groups} groups, {topk} chosen, one shared) and
  an MTP layer made of the same decoder layer: `eh_proj(cat[enorm(embed(t_i+1)), hnorm(h_i)])`, where `h_i` is
  taken after the final norm and the embedding at position 0 is zero, as vLLM computes it.
- {parameters:,} parameters trained. The file holds {stored:,} values, because the MTP layer carries copies of
  the embedding and of the output head as DeepSeek's checkpoint does.
- float32, {batch} windows of {length} tokens a step, {tokens_seen:,} tokens in all. The loss is main
  + {weight} MTP; the MTP gradient reaches the whole model; gradient norm clipped at {clip}.
- Muon (learning rate {muon_lr}) for weight matrices, per attention head and per expert; AdamW
  ({adam_lr}) for embedding, output head, routers and norms.
- Learning rates: {warmup} warm-up steps, constant to step {stable}, then falling as 1 / step, with a linear
  cooldown to zero over the last {cooldown:.0%} of the run.
- Routing bias (`e_score_correction_bias`): after each of the first {balance_steps} steps, {rate} against the sign
  of each expert's excess load, then frozen as in DeepSeek-V3. No auxiliary loss, so the load stays uneven.
- Head 0 of layer 0 starts out attending to the previous token, so that copying from earlier text is learnt
  early (see `initialize_weights`).

## Results

| | |
|---|---|
| validation loss, main model (nats a token) | {val_main:.3f} |
| validation loss, MTP layer (one token further) | {val_mtp:.3f} |
| draft accepted along the model's own greedy continuation | {greedy:.1%} |
| draft equals the model's choice along held-out text | {text:.1%} |
| largest / mean expert load on held-out text | {imbalance} |

All numbers are of the exported bfloat16 weights, computed in float32. The export is checked by the script:
transformers loads it without missing keys, only the MTP layer's are unexpected, and continues the prompts
below exactly as the trained model does.

![loss curve](loss_curve.png)

Greedy completions ({completion_tokens} tokens):

{completions}
"""


def plot_curve(curve: list[list[float]], path: Path) -> None:
    """Plots training and validation loss over tokens into ``path``."""
    columns = dict(zip(CURVE_COLUMNS, zip(*curve, strict=True), strict=True))
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    tokens = columns["tokens"]
    for name, color, label in (("main", "tab:blue", "main model"), ("mtp", "tab:orange", "MTP layer")):
        axes.plot(tokens, columns[f"train_{name}"], color=color, alpha=0.4, label=f"{label}, training")
        axes.plot(tokens, columns[f"val_{name}"], color=color, label=f"{label}, validation")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("cross entropy (nats a token)")
    axes.set_ylim(top=6)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _run_facts(trainer: Trainer, corpus: Corpus, num_tokens: int, asset_bytes: int) -> dict[str, object]:
    recipe, model = trainer.recipe, trainer.model
    names = ("torch", "transformers", "tokenizers")
    return {
        "versions": " / ".join([platform.python_version(), *(version(name) for name in names)]),
        "megabytes": asset_bytes / 1e6,
        "steps": recipe.num_steps,
        "interval": recipe.eval_interval,
        "minutes": trainer.seconds / 60,
        "seed": recipe.seed,
        "resumed_at": ", ".join(map(str, trainer.resumed_at)) or "never",
        "num_files": len(corpus.train) + len(corpus.validation),
        "num_bytes": corpus.num_bytes,
        "digest": corpus.digest,
        "held_out": ", ".join(f"`{name}`" for name in VALIDATION_FILES),
        "num_tokens": num_tokens,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stored": sum(tensor.numel() for tensor in checkpoint_tensors(model).values()),
        "batch": recipe.batch_size,
        "length": recipe.sequence_length,
        "tokens_seen": recipe.num_steps * recipe.batch_size * recipe.sequence_length,
        "weight": recipe.mtp_weight,
        "clip": recipe.grad_clip,
        "rate": recipe.balance_rate,
        "balance_steps": recipe.num_balance_steps,
        "muon_lr": MUON_LR,
        "adam_lr": ", ".join(f"{rate} {name or 'otherwise'}" for name, rate in ADAM_LR.items()),
        "warmup": NUM_WARMUP,
        "stable": NUM_STABLE,
        "cooldown": COOLDOWN_SHARE,
    }


def _model_facts(model: TinyDeepseek) -> dict[str, object]:
    config = model.main.config
    return {
        "vocab": config.vocab_size,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "experts": config.n_routed_experts,
        "groups": config.n_group,
        "topk": config.num_experts_per_tok,
    }


def write_report(
    trainer: Trainer, corpus: Corpus, train_N: torch.Tensor, result: Evaluation, out_dir: Path
) -> None:
    """Writes ``TRAINING.md``, ``loss_curve.csv`` and ``loss_curve.png`` beside the checkpoint."""
    trainer.write_curve(out_dir / "loss_curve.csv")
    plot_curve(trainer.curve, out_dir / "loss_curve.png")
    completions = "\n\n".join(f"```python\n{prompt}{text}\n```" for prompt, text in result.completions.items())
    asset_bytes = sum(path.stat().st_size for path in out_dir.iterdir() if path.name != "TRAINING.md")
    report = TEMPLATE.format(
        **_run_facts(trainer, corpus, len(train_N), asset_bytes),
        **_model_facts(trainer.model),
        val_main=result.val_main,
        val_mtp=result.val_mtp,
        greedy=result.acceptance_greedy,
        text=result.acceptance_text,
        imbalance=", ".join(f"layer {index}: {value:.2f}" for index, value in result.imbalance.items()),
        completion_tokens=NUM_COMPLETION_TOKENS,
        completions=completions,
    )
    (out_dir / "TRAINING.md").write_text(report, encoding="utf-8")
