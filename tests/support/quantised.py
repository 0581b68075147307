# SPDX-License-Identifier: Apache-2.0
"""Small W8A8_DYNAMIC and W4A8_DYNAMIC checkpoints as ModelSlim writes them, and transformers with the same integer
arithmetic."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_ascend_ext.integration.upstream.versions import PAIRS, installed_pair
from vllm_ascend_ext.tools.forked_ranks import Layout, Rank, run_ranks

METHOD, INT4_METHOD = "W8A8_DYNAMIC", "W4A8_DYNAMIC"
DESCRIPTION = "quant_model_description.json"
_LARGEST, _LARGEST_INT4 = 127, 7
# FlashComm v1 of vllm-ascend 0.23 keeps shared experts whole on each rank; with that of 0.30 TP splits them
WHOLE_BY_FLASHCOMM = installed_pair() == PAIRS[0]
_SPLIT_BY_INPUT = ("o_proj", "o_b_proj", "out_proj", "down_proj")
_OF_EXPERTS = ".experts."  # in the names of routed experts' projections
# latent attention reads the values and keys that the first makes in parts, which vllm-ascend takes in floats only;
# of a quantised shared expert with a gate of its own vllm-ascend forgets the gate (ops/fused_moe_0_23_0.py:572)
# and DeepSeek-V4's operators of groups of heads and of compressed keys take floats
_FLOAT = ("kv_b_proj", ".indexer.", ".shared_expert.", ".compressor.", "o_a_proj")
# DeepSeek-V4's names of projections in its checkpoints, of which those of transformers are what is above
_PUBLISHED = re.compile(r"\.(wq_a|wq_b|wkv|wo_b|w1|w2|w3)$")
# vllm-ascend passes this one the integers of attention's queries (attention/dsa_v1.py:2443)
_WITH_QUERIES = ".indexer.wq_b"


def allow_float32() -> None:
    """Has vllm-ascend take quantised models with float32 activations, in which tokens can be compared, in this
    process and its forks."""
    import torch

    is_first = importlib.util.find_spec("vllm_ascend.quantization.modelslim_config") is not None
    folder = "quantization" if is_first else "quantization.configs"  # of vllm-ascend 0.30
    config = importlib.import_module(f"vllm_ascend.{folder}.modelslim_config").AscendModelSlimConfig
    dtypes = [torch.int8, torch.float16, torch.bfloat16, torch.float32]
    config.get_supported_act_dtypes = classmethod(lambda cls: dtypes)


def write_w8a8(model: str, folder: Path) -> str:
    """Writes `model` with int8 projections into `folder` and returns the folder.

    Every two-dimensional projection, of attention and of experts, has a scale for each of its rows; routers,
    norms, embeddings, indexers, `kv_b_proj`, gated shared experts and the layer of drafts stay in floats. Beside
    the checkpoint lie two in float32 for `integer_network`: `values`, whose projections hold the integers, and
    `scales`, whose projections hold in each row its scale.
    """
    return _write(model, folder, {"model_quant_type": METHOD})


def write_w4a8(model: str, folder: Path) -> str:
    """Writes the same with the projections of routed experts in int4, two a byte, each row with one scale, as
    ModelSlim 1.0.0 does."""
    return _write(model, folder, {"model_quant_type": INT4_METHOD, "version": "1.0.0", "group_size": 0})


def _write(model: str, folder: Path, description: dict[str, Any]) -> str:
    config = json.loads((Path(model) / "config.json").read_text())
    num_layers, is_bfloat16 = config["num_hidden_layers"], config.get("dtype") == "bfloat16"
    has_int4 = description["model_quant_type"] == INT4_METHOD

    def job(rank: Rank) -> None:
        from safetensors.torch import load_file, save_file

        loaded = load_file(Path(model) / "model.safetensors").items()
        weights = {name: weight.float() if weight.is_floating_point() else weight for name, weight in loaded}
        served: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {"values": {}, "scales": {}}
        for name, weight in weights.items():
            stem, _, kind = name.rpartition(".")
            if not (kind == "weight" and weight.dim() == 2 and _is_quantised(stem, num_layers)):
                if not name.endswith("norm.bias"):  # it would say so of every norm (ops/layernorm.py:44)
                    description[name] = "FLOAT"
                for of_name in (served, *parts.values()):
                    of_name[name] = weight
                continue
            is_int4 = has_int4 and _OF_EXPERTS in name
            scale = weight.abs().amax(dim=1, keepdim=True) / (_LARGEST_INT4 if is_int4 else _LARGEST)
            if is_bfloat16:  # as the engine then has it
                scale = scale.bfloat16().float()
            integers = (weight / scale).round()
            tensors = _served_int4(stem, integers, scale) if is_int4 else _served_int8(stem, integers, scale)
            served |= tensors
            description.update(dict.fromkeys(tensors, INT4_METHOD if is_int4 else METHOD))
            parts["values"][name] = integers
            parts["scales"][name] = scale.expand_as(weight).contiguous()
        for target, tensors in ((folder, served), *((folder / part, of) for part, of in parts.items())):
            target.mkdir(exist_ok=True)
            save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
            for file in Path(model).glob("*.json"):
                shutil.copy(file, target)
        (folder / DESCRIPTION).write_text(json.dumps(description))

    run_ranks(job, Layout(), deadline_s=120)
    return str(folder)


def _served_int8(stem: str, integers: Any, scale: Any) -> dict[str, Any]:
    import torch

    return {
        f"{stem}.weight": integers.to(torch.int8),
        f"{stem}.weight_scale": scale,
        f"{stem}.weight_offset": torch.zeros_like(scale),
    }


def _served_int4(stem: str, integers: Any, scale: Any) -> dict[str, Any]:
    """Packs each two rows into one, the first in the low bits. The bias is what is lost where an operator lowers a
    row's int8 values by 8; that of a projection which TP may split by its input comes in sixteen parts."""
    import torch

    values = integers.to(torch.int8)
    packed = (values[0::2] & 15) | (values[1::2] << 4)
    num_parts = 16 if stem.endswith(("down_proj", ".w2")) else 1
    bias = 8 * (integers * scale).unflatten(1, (num_parts, -1)).sum(-1)
    return _served_int8(stem, packed, scale) | {f"{stem}.scale_bias": bias.contiguous()}


def _is_quantised(name: str, num_layers: int) -> bool:
    layer = re.search(r"\.layers\.(\d+)\.", name)
    is_draft = name.startswith("mtp.") or (layer is not None and int(layer[1]) >= num_layers)
    is_projection = "_proj" in name or _PUBLISHED.search(name) is not None
    is_float = any(part in name for part in _FLOAT) and not name.endswith(_WITH_QUERIES)
    return is_projection and not is_float and not is_draft


def split_by_tp(tp: int, *, expert_parallel: bool = True, cut: bool = False) -> Callable[[str], int]:
    """Returns a function of a projection's name that tells over how many ranks of `tp` its input is split: that of
    attention's output, linear attention's too, and of down projections.

    expert_parallel: routed experts are whole. cut: rows are cut, by FlashComm v1 (`WHOLE_BY_FLASHCOMM`) or for
    data-parallel shared experts, and shared experts are whole.
    """

    def num_shards(name: str) -> int:
        is_whole = (expert_parallel and _OF_EXPERTS in name) or (cut and "shared_expert" in name)
        return tp if any(part in name for part in _SPLIT_BY_INPUT) and not is_whole else 1

    return num_shards


def integer_network(num_shards: Callable[[str], int]) -> Callable[[str], Any]:
    """Returns a loader of such a checkpoint into transformers, for a process of its own: it changes torch's
    `linear`.

    The product of a projection is the exact sum of int8 products, times the scale of the weight's row, times the
    scale of the activation's row. num_shards: function of a projection's name that tells over how many ranks its
    input is split, each of which quantises its own part. What experts with int4 weights give, and their sum, is
    rounded to bfloat16, as vllm-ascend has it whatever the activations' type.
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
        description = json.loads((Path(folder) / DESCRIPTION).read_text())
        has_int4 = description["model_quant_type"] == INT4_METHOD

        def rounds(name: str) -> bool:
            return has_int4 and _OF_EXPERTS in name and "down_proj" in name

        quantised = [
            (parameter, scales[name].detach()[..., 0].flatten(), num_shards(name), rounds(name))
            for name, parameter in network.named_parameters()
            if _is_quantised(name, network.config.num_hidden_layers)
        ]
        for name, module in network.named_modules():
            if has_int4 and name.endswith(_OF_EXPERTS.rstrip(".")):
                module.register_forward_hook(lambda module, inputs, output: output.bfloat16().float())
        plain = torch.nn.functional.linear

        def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            for parameter, row_scales, shards, is_rounded in quantised:
                offset = (weight.data_ptr() - parameter.data_ptr()) // parameter.element_size()
                if 0 <= offset < parameter.numel():
                    first = offset // parameter.shape[-1]
                    result = _product(x, weight, row_scales[first : first + weight.shape[0]], shards)
                    return result.bfloat16().float() if is_rounded else result
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
