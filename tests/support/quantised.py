# SPDX-License-Identifier: Apache-2.0
"""Small W8A8_DYNAMIC checkpoints as ModelSlim writes them, and transformers with the same integer arithmetic."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

METHOD = "W8A8_DYNAMIC"
_LARGEST = 127
# latent attention reads the values and keys that the first makes in parts, which vllm-ascend takes in floats only
_FLOAT = ("kv_b_proj", ".indexer.")


def allow_float32() -> None:
    """Has vllm-ascend take quantised models with float32 activations, in which tokens can be compared, in this
    process and its forks."""
    import torch
    from vllm_ascend.quantization.modelslim_config import AscendModelSlimConfig

    dtypes = [torch.int8, torch.float16, torch.bfloat16, torch.float32]
    AscendModelSlimConfig.get_supported_act_dtypes = classmethod(  # type: ignore[method-assign, assignment]
        lambda cls: dtypes
    )


def write_w8a8(model: str, folder: Path) -> str:
    """Writes `model` with int8 projections into `folder` and returns the folder.

    Every two-dimensional projection, of attention and of experts, has a scale for each of its rows; routers,
    norms, embeddings, indexers, `kv_b_proj` and the layer of drafts stay in floats. Beside the checkpoint lie two
    in float32 for `integer_network`: `values`, whose projections hold the integers, and `scales`, whose
    projections hold in each row its scale.
    """
    num_layers = json.loads((Path(model) / "config.json").read_text())["num_hidden_layers"]

    def job(rank: Rank) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        weights = {name: weight.float() for name, weight in load_file(Path(model) / "model.safetensors").items()}
        served: dict[str, torch.Tensor] = {}
        parts: dict[str, dict[str, torch.Tensor]] = {"values": {}, "scales": {}}
        description = {"model_quant_type": METHOD}
        for name, weight in weights.items():
            stem, _, kind = name.rpartition(".")
            if not (kind == "weight" and weight.dim() == 2 and _is_quantised(stem, num_layers)):
                if not name.endswith("norm.bias"):  # it would say so of every norm (ops/layernorm.py:44)
                    description[name] = "FLOAT"
                for of_name in (served, *parts.values()):
                    of_name[name] = weight
                continue
            scale = weight.abs().amax(dim=1, keepdim=True) / _LARGEST
            integers = (weight / scale).round()
            served[name] = integers.to(torch.int8)
            served[f"{stem}.weight_scale"] = scale
            served[f"{stem}.weight_offset"] = torch.zeros_like(scale)
            description |= dict.fromkeys((name, f"{stem}.weight_scale", f"{stem}.weight_offset"), METHOD)
            parts["values"][name] = integers
            parts["scales"][name] = scale.expand_as(weight).contiguous()
        for target, tensors in ((folder, served), *((folder / part, of) for part, of in parts.items())):
            target.mkdir(exist_ok=True)
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
            for file in Path(model).glob("*.json"):
                shutil.copy(file, target)
        (folder / "quant_model_description.json").write_text(json.dumps(description))

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)


def _is_quantised(name: str, num_layers: int) -> bool:
    layer = re.search(r"\.layers\.(\d+)\.", name)
    is_draft = layer is not None and int(layer[1]) >= num_layers
    return "_proj" in name and not any(part in name for part in _FLOAT) and not is_draft


def integer_network(num_shards: Callable[[str], int]) -> Callable[[str], Any]:
    """Returns a loader of such a checkpoint into transformers, for a process of its own: it changes torch's
    `linear`.

    The product of a projection is the exact sum of int8 products, times the scale of the weight's row, times the
    scale of the activation's row. num_shards: function of a projection's name that tells over how many ranks its
    input is split, each of which quantises its own part.
    """

    def load(folder: str) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        network, of_scales = (
            AutoModelForCausalLM.from_pretrained(
                Path(folder) / part, dtype=torch.float32, experts_implementation="eager"
            ).eval()
            for part in ("values", "scales")
        )
        scales = dict(of_scales.named_parameters())
        quantised = [
            (parameter, scales[name].detach()[..., 0].flatten(), num_shards(name))
            for name, parameter in network.named_parameters()
            if _is_quantised(name, network.config.num_hidden_layers)
        ]
        plain = torch.nn.functional.linear

        def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            for parameter, row_scales, shards in quantised:
                offset = (weight.data_ptr() - parameter.data_ptr()) // parameter.element_size()
                if 0 <= offset < parameter.numel():
                    first = offset // parameter.shape[-1]
                    return _product(x, weight, row_scales[first : first + weight.shape[0]], shards)
            return plain(x, weight, bias)

        torch.nn.functional.linear = linear
        return network

    return load


def _product(x: Any, integers: Any, row_scales: Any, num_shards: int) -> Any:
    import torch

    result = torch.zeros(())
    for part, weight in zip(x.chunk(num_shards, -1), integers.chunk(num_shards, -1), strict=True):
        scale = part.abs().amax(-1, keepdim=True) / _LARGEST
        values = (part / scale.masked_fill(scale == 0, 1)).round()
        sums = values.double() @ weight.double().T  # exact
        result = result + sums.float() * row_scales * scale
    return result
