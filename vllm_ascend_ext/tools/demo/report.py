# SPDX-License-Identifier: Apache-2.0
"""Builds what `vllm-ascend-ext demo --json` prints from the engines' results, and reads it for `heatmap`.

The document, all keys always present; new keys may be added while `schema` stays 1:

* `schema`: 1. `version`, `vllm_version`: of the packages. `model`: the folder as given.
* `layout`: `tp`, `dp`, `expert_parallel`, `num_speculative_tokens`, `dtype`. `max_tokens`: a prompt.
* `seconds`: `load_vllm`, `start` (the slowest rank's engine), `generate` (the slowest rank).
* `num_generated_tokens`, `tokens_per_second` (generated tokens over `seconds.generate`).
* `completions`: list of `prompt`, `text`, `token_ids`, in prompt order.
* `mtp`: null without MTP, else `num_drafts` (draft rounds), `accepted` and `acceptance_rate` (lists, one entry a
  draft position), `tokens_per_round` (accepted drafts and the model's own token).
* `layers`: list, one a mixture-of-experts layer: `name`, `draft` (whether of the MTP model), `top_k`, `num_tokens`
  (routed rows), `load` (tokens of each expert, summed over the ranks), `expert_imbalance` and `rank_imbalance`
  (busiest over average; the latter null unless expert parallelism spreads the experts over ranks).
* `busiest_experts`: list of `layer` (a name), `expert`, `num_tokens`, `share` (of its layer), busiest first.
* `traffic`: list of `rank`, `group`, `operation`, `calls`, `rows`, `bytes`: what each rank sent.
* `comparison`: null with --no-compare, else `same_tokens`, `num_same`, `num_prompts`, `first_difference` (null or
  `prompt` (its index), `position`, `token`, `reference_token`: ids, null beyond the end of a completion; the same
  as `token_text`, `reference_token_text`).
* `heatmap`: the picture's path; the page beside it has the same name, ending in .html.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import vllm_ascend_ext
from vllm_ascend_ext.eplb_load.balance import expert_imbalance, rank_imbalance, top_experts
from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, layer_label
from vllm_ascend_ext.eplb_load.reported_load import loads_of_report
from vllm_ascend_ext.tools.demo.input import DemoOptions, InputError
from vllm_ascend_ext.tools.engine import EngineResult

SCHEMA = 1
_NUM_BUSIEST = 5


def build_document(
    options: DemoOptions, result: EngineResult, reference: EngineResult | None, load_vllm_seconds: float
) -> dict[str, Any]:
    """Returns the document of a run; `reference` is the run with everything off, None when there was none."""
    layers = _layers(result, options)
    return {
        "schema": SCHEMA,
        "version": vllm_ascend_ext.__version__,
        "vllm_version": importlib.metadata.version("vllm"),
        "model": str(options.model),
        "layout": {
            "tp": options.tp,
            "dp": options.dp,
            "expert_parallel": options.expert_parallel,
            "num_speculative_tokens": options.num_speculative_tokens,
            "dtype": options.dtype,
        },
        "max_tokens": options.max_tokens,
        "seconds": {
            "load_vllm": round(load_vllm_seconds, 3),
            "start": round(max(rank.start_seconds for rank in result.ranks), 3),
            "generate": round(result.generate_seconds, 3),
        },
        "num_generated_tokens": result.num_generated_tokens,
        "tokens_per_second": round(result.num_generated_tokens / result.generate_seconds, 2),
        "completions": [
            {"prompt": prompt, "text": completion.text, "token_ids": list(completion.token_ids)}
            for prompt, completion in zip(options.prompts, result.completions, strict=True)
        ],
        "mtp": _acceptance(result, options),
        "layers": layers,
        "busiest_experts": _busiest(layers),
        "traffic": [
            {"rank": rank, "group": group, "operation": operation, **counts}
            for rank, values in enumerate(result.ranks)
            for group, operations in (values.report or {}).get("traffic", {}).items()
            for operation, counts in operations.items()
        ],
        "comparison": None if reference is None else _comparison(options, result, reference),
        "heatmap": str(options.heatmap),
    }


def compare(tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Returns the `comparison` of the document, from the token ids of all prompts."""
    first = None
    num_same = 0
    for prompt, (ours, theirs) in enumerate(zip(tokens, reference, strict=True)):
        if tuple(ours) == tuple(theirs):
            num_same += 1
        elif first is None:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            position = min(len(ours), len(theirs)) if at is None else at
            first = {
                "prompt": prompt,
                "position": position,
                "token": ours[position] if position < len(ours) else None,
                "reference_token": theirs[position] if position < len(theirs) else None,
            }
    return {
        "same_tokens": first is None,
        "num_same": num_same,
        "num_prompts": len(tokens),
        "first_difference": first,
    }


def _comparison(options: DemoOptions, result: EngineResult, reference: EngineResult) -> dict[str, Any]:
    """Returns what `compare` does, with the text of the first tokens that differ."""
    comparison = compare(result.token_ids, reference.token_ids)
    if first := comparison["first_difference"]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.model)
        for key in ("token", "reference_token"):
            first[f"{key}_text"] = None if first[key] is None else tokenizer.decode([first[key]])
    return comparison


def heatmap_of_document(document: dict[str, Any]) -> Heatmap:
    """Returns the heat map of a document's layers."""
    layout = document["layout"]
    parts = [Path(document["model"]).name, f"TP {layout['tp']}, DP {layout['dp']}"]
    parts += ["expert parallel"] if layout["expert_parallel"] else []
    parts += [f"MTP k={layout['num_speculative_tokens']}"] if layout["num_speculative_tokens"] else []
    return Heatmap(
        load_LE=[layer["load"] for layer in document["layers"]],
        layer_names=[layer_label(layer["name"], layer["draft"]) for layer in document["layers"]],
        title="Expert load: " + ", ".join(parts),
    )


def check_document(document: dict[str, Any], path: Path) -> None:
    """Checks a saved document as far as a heat map needs it; raises InputError when it cannot be drawn."""
    if document["schema"] != SCHEMA:
        raise InputError(f"{path}: a report of schema {document['schema']!r}; this version reads {SCHEMA}")
    if problem := _load_problem(document):
        raise InputError(f"{path}: a damaged report: {problem}")


def _layers(result: EngineResult, options: DemoOptions) -> list[dict[str, Any]]:
    """Sums the counts of all ranks; every rank counts its own rows only, so that the sum is exact."""
    spread = options.num_ranks if options.expert_parallel and options.num_ranks > 1 else 0
    layers = loads_of_report([rank.report for rank in result.ranks if rank.report is not None]).layers
    load_LE = torch.tensor([layer.load_E for layer in layers], dtype=torch.int64)
    experts = expert_imbalance(load_LE).max_over_mean
    ranks = rank_imbalance(load_LE, spread).max_over_mean if spread else [None] * len(layers)
    return [
        {
            "name": layer.name,
            "draft": layer.model == "draft",
            "top_k": layer.top_k,
            "num_tokens": layer.num_tokens,
            "load": list(layer.load_E),
            "expert_imbalance": of_experts,
            "rank_imbalance": of_ranks,
        }
        for layer, of_experts, of_ranks in zip(layers, experts, ranks, strict=True)
    ]


def _busiest(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    load_LE = torch.tensor([layer["load"] for layer in layers], dtype=torch.int64)
    return [
        {
            "layer": layers[hot.layer]["name"],
            "expert": hot.expert,
            "num_tokens": hot.num_tokens,
            "share": hot.share,
        }
        for hot in top_experts(load_LE, _NUM_BUSIEST)
    ]


def _acceptance(result: EngineResult, options: DemoOptions) -> dict[str, Any] | None:
    """Sums over one rank a replica: TP ranks repeat their replica's counters."""
    if not options.num_speculative_tokens:
        return None
    replicas = [rank.metrics for rank in result.ranks[:: options.tp]]
    num_drafts = sum(int(metrics.get("vllm:spec_decode_num_drafts", 0)) for metrics in replicas)
    per_replica = [metrics.get("vllm:spec_decode_num_accepted_tokens_per_pos", []) for metrics in replicas]
    accepted = [
        sum(int(counts[position]) for counts in per_replica if position < len(counts))
        for position in range(options.num_speculative_tokens)
    ]
    return {
        "num_drafts": num_drafts,
        "accepted": accepted,
        "acceptance_rate": [count / num_drafts if num_drafts else 0.0 for count in accepted],
        "tokens_per_round": 1 + sum(accepted) / num_drafts if num_drafts else 1.0,
    }


def _load_problem(document: dict[str, Any]) -> str | None:
    """Returns what keeps `heatmap_of_document` from drawing the document; None when nothing does."""
    layers, layout = document.get("layers"), document.get("layout")
    if not isinstance(document.get("model"), str) or not isinstance(layout, dict):
        return "no model or layout"
    if missing := {"tp", "dp", "expert_parallel", "num_speculative_tokens"} - layout.keys():
        return f"layout has no {', '.join(sorted(missing))}"
    if not isinstance(layers, list) or not layers:
        return "no layers"
    for index, layer in enumerate(layers):
        load = layer.get("load") if isinstance(layer, dict) else None
        if not isinstance(load, list) or not load or not all(type(n) is int and n >= 0 for n in load):
            return f"layers[{index}].load is not a list of counts"
        if not isinstance(layer.get("name"), str) or not isinstance(layer.get("draft"), bool):
            return f"layers[{index}] has no name or draft flag"
        if len(load) != len(layers[0]["load"]):
            return f"layers[{index}] has {len(load)} experts, layers[0] {len(layers[0]['load'])}"
    return None
