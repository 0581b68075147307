# SPDX-License-Identifier: Apache-2.0
"""Checks what the demo is asked to do, before any rank starts: every error says what to change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vllm_ascend_ext

MAX_K = 16  # drafts a step; the largest number the demo is tried with
MAX_RANKS = 64
_LEAST_MODEL_LEN = 512

PROMPTS = (
    "import os\n\ndef ",
    "class Foo:\n    def __init__(self",
    "for i in range(",
    "    if not isinstance(",
    "def read_file(path):\n    with open(",
    "try:\n    import ",
    "def test_",
    "    return self._",
    'if __name__ == "__main__":\n',
    "from collections import ",
    "    raise ValueError(",
    "while True:\n    line = ",
)


class InputError(ValueError):
    """Reports user input that cannot work; the message is one line and says what to change."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Holds the demo's arguments. num_speculative_tokens: drafts a step, 0 turns MTP off."""

    model: Path
    prompts: tuple[str, ...] = PROMPTS
    tp: int = 2
    dp: int = 1
    expert_parallel: bool = True
    num_speculative_tokens: int = 1
    max_tokens: int = 64
    dtype: str = "float32"
    heatmap: Path = Path("out/heatmap.png")
    compare: bool = True

    @property
    def num_ranks(self) -> int:
        return self.tp * self.dp


def bundled_model() -> Path | None:
    """Returns the tiny DeepSeek-V3 of the repository, or None where the package is installed without one."""
    model = Path(vllm_ascend_ext.__file__).parent.parent / "tests" / "assets" / "tiny-deepseek"
    return model if (model / "config.json").is_file() else None


def read_prompts(path: Path) -> tuple[str, ...]:
    """Reads the prompts of a file: a JSON list of strings when its name ends in .json, else one a line.

    Raises InputError when the file cannot be read or holds no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: cannot be read ({_reason(error)})") from None
    if path.suffix == ".json":
        try:
            prompts = json.loads(text)
        except ValueError as error:
            raise InputError(f"--prompts {path}: not JSON ({error})") from None
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise InputError(f"--prompts {path}: expected a JSON list of strings")
    else:
        prompts = text.splitlines()
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise InputError(f"--prompts {path}: no prompt in it; write one a line, or a JSON list in a .json file")
    return tuple(prompts)


def check_options(options: DemoOptions) -> None:
    """Raises InputError for numbers, a model, prompts or a heat map path that cannot work."""
    for name, value in (("--tp", options.tp), ("--dp", options.dp), ("--max-tokens", options.max_tokens)):
        if value < 1:
            raise InputError(f"{name} {value}: must be at least 1")
    k = options.num_speculative_tokens
    if not 0 <= k <= MAX_K:
        raise InputError(f"--k {k}: must be from 0 (no MTP) to {MAX_K}")
    if options.num_ranks > MAX_RANKS:
        raise InputError(f"--tp {options.tp} --dp {options.dp}: more than {MAX_RANKS} ranks; lower one of them")
    config = read_model_config(options.model)
    _check_layout(config, options)
    _check_drafts(config, options)
    model_len(config, options)
    check_picture(options.heatmap)


def read_model_config(model: Path) -> dict[str, Any]:
    """Reads the model's config.json; raises InputError when the folder is no model with weights."""
    if not model.is_dir():
        raise InputError(f"--model {model}: no such folder; name a folder with config.json and weights")
    path = model / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--model {model}: no config.json in it; name a folder with a model") from None
    except (OSError, ValueError) as error:
        raise InputError(f"--model {model}: config.json cannot be read ({_reason(error)})") from None
    if not isinstance(config, dict):
        raise InputError(f"--model {model}: config.json is not a JSON object")
    if not any(model.glob("*.safetensors")):
        raise InputError(f"--model {model}: no *.safetensors weights in it")
    return config


def model_len(config: dict[str, Any], options: DemoOptions) -> int:
    """Returns `max_model_len` with room for the longest prompt and its completion; InputError if the model has
    less.

    A token is at least one byte in a byte-level vocabulary, so bytes bound a prompt's tokens from above.
    """
    longest = max(range(len(options.prompts)), key=lambda i: len(options.prompts[i].encode()))
    num_bytes = len(options.prompts[longest].encode())
    needed = num_bytes + options.max_tokens + options.num_speculative_tokens + 2
    limit = _integer(config, "max_position_embeddings")
    if limit is not None and needed > limit:
        raise InputError(
            f"prompt {longest} has {num_bytes} bytes: with --max-tokens {options.max_tokens} it may exceed the "
            f"model's {limit} positions; shorten it or lower --max-tokens"
        )
    length = max(needed, _LEAST_MODEL_LEN)
    return length if limit is None else min(length, limit)


def check_picture(path: Path) -> None:
    """Makes the folder of a picture; raises InputError when no picture can be written there."""
    if path.suffix == ".html":
        raise InputError(f"heat map {path}: the page beside the picture has that name; give one that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(f"heat map {path}: cannot be written ({_reason(error)})") from None


def _check_layout(config: dict[str, Any], options: DemoOptions) -> None:
    experts_key = "num_experts" if "num_experts" in config else "n_routed_experts"
    num_experts = _integer(config, experts_key)
    if not num_experts:
        raise InputError(
            f"--model {options.model}: it has no routed experts, and the demo shows expert load; name a "
            "mixture-of-experts model"
        )
    heads = _integer(config, "num_attention_heads")
    if heads is not None and heads % options.tp:
        raise InputError(
            f"--tp {options.tp}: the model's {heads} attention heads (num_attention_heads) do not divide by it; "
            "choose another --tp"
        )
    if options.expert_parallel and num_experts % options.num_ranks:
        raise InputError(
            f"--tp {options.tp} --dp {options.dp}: the model's {num_experts} experts ({experts_key}) do not "
            f"divide among {options.num_ranks} ranks; choose other numbers or --no-ep"
        )
    width = _integer(config, "moe_intermediate_size")
    if not options.expert_parallel and width is not None and width % options.num_ranks:
        raise InputError(
            f"--no-ep --tp {options.tp} --dp {options.dp}: without expert parallelism all ranks split the "
            f"experts' width of {width} (moe_intermediate_size), which does not divide by {options.num_ranks}; "
            "choose other numbers or --ep"
        )


def _check_drafts(config: dict[str, Any], options: DemoOptions) -> None:
    k, num_layers = options.num_speculative_tokens, _integer(config, "num_nextn_predict_layers") or 0
    if k > 0 and num_layers < 1:
        raise InputError(
            f"--k {k}: the model has no MTP layer (num_nextn_predict_layers); choose --k 0 or another model"
        )
    if k > num_layers and k % num_layers:
        raise InputError(
            f"--k {k}: beyond the model's {num_layers} MTP layers it must be a multiple of {num_layers}"
        )


def _integer(config: dict[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise InputError(f"the model's config.json: {key} is {value!r}, not a count")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
