# SPDX-License-Identifier: Apache-2.0
"""Reads what `check` needs of a model: from its folder, from a config.json alone, or by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.known_models import known_config
from vllm_ascend_ext.tools.check.shell_text import left_open

# where models that see or hear keep the configuration of the part that writes
_TEXT_PARTS = ("thinker_config", "text_config", "llm_config", "language_config")
_EXPERT_COUNTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
_TOP_KS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
_LINEAR_KEYS = ("linear_attn_config", "full_attention_interval", "linear_num_key_heads")
DESCRIPTION = "quant_model_description.json"
# how ModelSlim quantises the experts of checkpoints that are named after these widths
_EXPERT_METHODS = {
    "w8a8": "W8A8_DYNAMIC",
    "w4a8": "W4A8_DYNAMIC",
    "w4a16": "W4A16",
    "w4a4": "W4A4_MXFP4",
    "mxfp8": "W8A8_MXFP8",
    "mxfp4": "W4A4_MXFP4",
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Holds a model's name, its config.json, and how its weights are quantised.

    quantization: vLLM's name of the method that the weights themselves ask for; None for none.
    scheme: what is known of the numbers' widths, for example "w8a8"; "" for unquantised weights.
    description: the folder's description of its quantised layers; None without one.
    """

    name: str
    config: Mapping[str, Any]
    quantization: str | None
    scheme: str
    description: Mapping[str, Any] | None = None

    @property
    def described_layers(self) -> Mapping[str, Any]:
        """Returns the description of quantised layers: the folder's own, else one layer of experts by the name.

        Where neither tells, that layer is FLOAT: a command is not refused for what it does not say.
        """
        if self.description is not None:
            return self.description
        return {"layer.experts.0.weight": _EXPERT_METHODS.get(self.scheme, "FLOAT")}

    @property
    def text_config(self) -> Mapping[str, Any]:
        """Returns the configuration of the part that writes."""
        config = self.config
        for part in _TEXT_PARTS:
            if isinstance(config.get(part), Mapping):
                config = config[part]
        return config

    @property
    def text_namespace(self) -> SimpleNamespace:
        """Returns `text_config` with its keys as attributes, as transformers has them."""
        return SimpleNamespace(**self.text_config)

    @property
    def num_experts(self) -> int:
        """Returns the number of routed experts, 0 in a dense model."""
        return _first_number(self.text_config, _EXPERT_COUNTS)

    @property
    def top_k(self) -> int:
        """Returns how many experts a row goes to; 1 where that is not said, as vllm-ascend takes it."""
        return _first_number(self.text_config, _TOP_KS) or 1

    @property
    def family(self) -> str:
        """Returns the kind of attention, which is how the tests tell families of models apart."""
        config = self.text_config
        if not self.num_experts:
            return "dense"
        if "compress_ratios" in config:
            return "DeepSeek-V4"
        if any(key in config for key in _LINEAR_KEYS):
            return "linear attention"
        if "index_topk" in config:
            return "sparse MLA"
        return "MLA" if config.get("kv_lora_rank") else "GQA"


def _first_number(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = next((config[name] for name in names if config.get(name)), 0)
    return int(found[0] if isinstance(found, list) else found)


def read_model(name: str, config_file: Path | None, overrides: Mapping[str, Any]) -> ModelFacts:
    """Returns the facts of the model that a command names.

    Args:
        name: MODEL of the command: a folder, a config.json, or a model's name.
        config_file: what to read in its place; None for the model itself.
        overrides: the command's --hf-overrides.

    Raises CommandError when there is nothing to go by.
    """
    path = config_file or Path(name)
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        config = _read_json(path)
    elif config_file is not None:
        raise CommandError(f"--model-config {config_file}: there is no such file or folder; give a config.json")
    else:
        config = _known(name)
    config = {**config, **overrides}
    description = path.parent / DESCRIPTION
    layers = _read_json(description) if description.is_file() else {}
    scheme = next((found for text in layers.values() if (found := scheme_of(str(text)))), "")
    asked = (config.get("quantization_config") or {}).get("quant_method")
    if description.is_file():
        return ModelFacts(name, config, "ascend", scheme or "w?a?", layers)
    named = "" if path.is_file() else scheme_of(name)
    return ModelFacts(name, config, asked or ("ascend" if named else None), asked or named)


def _known(name: str) -> dict[str, Any]:
    config = known_config(name)
    if config is not None:
        return config
    open_name = left_open(name)
    what = f"the model is left to {open_name}" if open_name else f"the model {name!r} is no folder and not known"
    raise CommandError(f"{what}: give its folder, or its config.json by --model-config FILE")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path}: not JSON that can be read ({error}); give the model's own file") from None
    if not isinstance(content, dict):
        raise CommandError(f"{path}: holds no mapping; give the model's own file")
    return content


def scheme_of(text: str) -> str:
    """Returns the widths of weights and activations that a name tells, for example "w8a8" or "mxfp8", else ""."""
    found = re.search(r"mxfp\d", text.lower()) or re.search(r"w\d+a\d+", text.lower())
    return found[0] if found else ""
