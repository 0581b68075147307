# SPDX-License-Identifier: Apache-2.0
"""What a planned DP gather cannot be combined with: refused at start-up, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_ascend_ext.config import DpGatherConfig
from vllm_ascend_ext.dp_gather.machine import NAMED, MachineError, read
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.draft_model import is_draft


def check(vllm_config: Any, config: DpGatherConfig, *, routes_itself: bool, verified: bool) -> None:
    """Refuse what a planned gather cannot be combined with; raises UnsupportedCombinationError.

    routes_itself, verified: see `DeviceIntegration`; `verified` is its `dp_gather`.
    """
    parallel = vllm_config.parallel_config
    if not verified:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather has not run on this kind of device, where rows of padding would reach kernels "
            "with the expert -1, and not all are known to take that; set dp_gather.enabled to false"
        )
    if parallel.data_parallel_size == 1:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather plans how data-parallel replicas exchange rows, and data_parallel_size is 1; "
            "raise it or set dp_gather.enabled to false"
        )
    if routes_itself:
        from vllm_ascend_ext.integration.dp_gather import ascend_exchange

        ascend_exchange.check(vllm_config)
        if config.overlap_counts:
            raise UnsupportedCombinationError(
                "ascend_ext.dp_gather.overlap_counts is not built for vllm-ascend's exchange of counts; set it to "
                "false"
            )
    elif parallel.all2all_backend not in ("naive", "allgather_reducescatter"):
        raise UnsupportedCombinationError(
            f"ascend_ext.dp_gather gathers all rows, and all2all_backend={parallel.all2all_backend!r} sends them "
            "one by one; use 'allgather_reducescatter'"
        )
    if parallel.enable_elastic_ep or parallel.use_ubatching or parallel.prefill_context_parallel_size > 1:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather plans one batch of a fixed set of ranks; turn enable_elastic_ep and enable_dbo "
            "off, leave ubatch_size at 0 and prefill_context_parallel_size at 1"
        )
    if vllm_config.lora_config is not None:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather is not built for LoRA, with which vLLM gathers the adapter of each row too; "
            "turn enable_lora off or set dp_gather.enabled to false"
        )
    if config.rule == "cost" and not config.machine:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather.rule='cost' needs dp_gather.machine: a known name or a description that "
            "`benchmarks/dp_gather.py --write-machine FILE` measured"
        )
    if config.machine:
        _check_machine(config.machine)
    if vllm_config.model_config is not None and not is_draft(vllm_config):
        _check_model(vllm_config.model_config)


def _check_model(model_config: Any) -> None:
    if not model_config.is_moe:
        raise UnsupportedCombinationError(
            f"ascend_ext.dp_gather exchanges rows for routed experts, but {model_config.model} has none; set "
            "dp_gather.enabled to false"
        )
    if model_config.enable_return_routed_experts:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather moves rows to where enable_return_routed_experts does not look; turn one off"
        )


def _check_machine(name_or_file: str) -> None:
    try:
        if name_or_file not in NAMED:
            read(Path(name_or_file))
    except MachineError as error:
        raise UnsupportedCombinationError(f"ascend_ext.dp_gather.machine: {error}") from None


def check_layers(layers: dict[str, Any]) -> None:
    """Refuse a loaded model whose layers cannot follow a plan; raises UnsupportedCombinationError."""
    for name, layer in layers.items():
        if layer.quant_method.is_monolithic:  # whether it gathers by itself or the layer does
            raise UnsupportedCombinationError(
                f"ascend_ext.dp_gather cannot keep padding away from the experts of {name}: "
                f"{type(layer.quant_method).__name__} routes inside its kernel; choose another moe_backend or set "
                "dp_gather.enabled to false"
            )
    if len({bool(layer.moe_config.is_sequence_parallel) for layer in layers.values()}) != 1:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather needs layers that all exchange rows among the same ranks, and there are none or "
            "several kinds; set dp_gather.enabled to false"
        )


def check_graphs(runner: Any, config: DpGatherConfig) -> None:
    """Refuse a mode that graphs cannot hold; raises UnsupportedCombinationError."""
    from vllm.config import CUDAGraphMode

    graphs = runner.compilation_config.cudagraph_mode not in (None, CUDAGraphMode.NONE)
    if graphs and config.overlap_counts:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather.overlap_counts lets a pass begin before all counts are known, and graphs need "
            "them to choose their size; set enforce_eager or overlap_counts to false"
        )
    if graphs and config.counts_ahead:
        raise UnsupportedCombinationError(
            "ascend_ext.dp_gather.counts_ahead is built for eager passes: replicas would have to commit to the "
            "graph's size too, so that all replay the same; set enforce_eager or counts_ahead to false"
        )
    if graphs and config.mode not in ("planned", "max_len"):
        raise UnsupportedCombinationError(
            f"ascend_ext.dp_gather.mode={config.mode!r} cannot be captured into graphs; leave it at 'planned' or "
            "set enforce_eager"
        )
