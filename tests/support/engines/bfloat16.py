# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints for engines that compute in bfloat16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from vllm_ascend_ext.tools.forked_ranks import Layout, run_ranks

_TOKENS = 28.0  # of embeddings, beside those that were drawn


def write_bfloat16(model: str, folder: Path) -> str:
    """Writes the checkpoint `model` as one in bfloat16 into `folder` and returns the folder.

    Its embeddings become so large beside what layers add that a row which rounding sends to another of two nearly
    tied experts moves the logits little.
    """

    def job(rank: object) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        weights = load_file(Path(model) / "model.safetensors")
        weights["model.embed_tokens.weight"] *= _TOKENS
        rounded = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
        save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})

    run_ranks(job, Layout(), deadline_s=120)
    for file in Path(model).glob("*.json"):
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return str(folder)
