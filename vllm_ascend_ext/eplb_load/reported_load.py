# SPDX-License-Identifier: Apache-2.0
"""Reads the expert load out of the ranks' reports, as ``collective_rpc("ascend_ext_report")`` returns them.

Every rank reports a part of the load; the sum over the ranks is everything that was routed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MODELS = ("target", "draft")
_MAX_COUNT = 2**63 - 1


class ReportError(ValueError):
    """Reports in one line that a document is not the ranks' reports, or where it is damaged."""


class NoLoadError(ReportError):
    """Reports that no rank counts expert load, because the feature is off."""


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """Holds the load of one mixture-of-experts layer, summed over the ranks.

    Attributes:
        name: name of the layer in the model.
        model: "target" or "draft".
        top_k: experts a row.
        num_tokens: rows that were routed.
        load_E: rows routed to each expert; together `num_tokens` times `top_k`.
    """

    name: str
    model: str
    top_k: int
    num_tokens: int
    load_E: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReportedLoad:
    """Holds the load of all layers, those of the target first.

    Attributes:
        layers: the layers with their load.
        num_ranks: number of ranks that reported.
        num_counting: number of ranks that reported expert load.
        has_handovers: whether the first rank is among these, which reports what all ranks have handed over.
    """

    layers: tuple[LayerLoad, ...]
    num_ranks: int
    num_counting: int
    has_handovers: bool

    def num_tokens(self, model: str) -> int:
        """Returns how many rows the busiest layer of `model` has routed; 0 for a model without layers."""
        return max((layer.num_tokens for layer in self.layers if layer.model == model), default=0)


def loads_of_report(document: object) -> ReportedLoad:
    """Sums the load over the ranks, in exact integers.

    Args:
        document: list of the ranks' reports, or the report of one rank. Ranks whose `eplb_load` is null are
            skipped.

    Raises:
        ReportError: the document is something else, or damaged.
        NoLoadError: no rank counts expert load.
    """
    reports: list[Any] = document if isinstance(document, list) else [document]
    if not reports or not all(isinstance(report, dict) and "rank" in report for report in reports):
        raise ReportError("not a report of ranks, as collective_rpc('ascend_ext_report') returns it")
    found = [_member(report, "eplb_load", (dict, type(None))) for report in reports]
    parts = [part for part in found if part is not None]
    has_handovers = any([_member(part, "has_handovers", (bool,)) for part in parts])
    layers: dict[tuple[str, str], LayerLoad] = {}
    for layer in (layer for part in parts for layer in _layers(part)):
        key = (layer.model, layer.name)
        layers[key] = _sum(layers[key], layer) if key in layers else layer
    if not layers:
        raise NoLoadError(
            "no rank counts expert load; start the engine with "
            '--additional-config \'{"ascend_ext": {"eplb_load": {"enabled": true}}}\''
        )
    widths = {len(layer.load_E) for layer in layers.values()}
    if len(widths) > 1:
        raise ReportError(f"layers of {', '.join(map(str, sorted(widths)))} experts do not fit into one picture")
    ordered = sorted(layers.values(), key=lambda layer: _MODELS.index(layer.model))
    return ReportedLoad(tuple(ordered), len(reports), len(parts), has_handovers)


def _layers(part: dict[str, Any]) -> Iterator[LayerLoad]:
    """Yields the layers of one rank's `eplb_load`."""
    for load in _member(part, "load", (list,)):
        yield from _of_model(load)


def _of_model(load: object) -> Iterator[LayerLoad]:
    if not isinstance(load, dict):
        raise ReportError(f"the load of a model is no object, but {load!r}")
    model = _member(load, "model", (str,))
    if model not in _MODELS:
        raise ReportError(f"load of the model {model!r}, which is none of {', '.join(_MODELS)}")
    names, rows = _member(load, "layers", (list,)), _member(load, "load_LE", (list,))
    top_k, num_tokens = _member(load, "top_k", (int,)), _member(load, "num_tokens", (int,))
    if len(names) != len(rows):
        raise ReportError(f"the {model} has {len(names)} layers and load of {len(rows)}")
    for name, row in zip(names, rows, strict=True):
        if not isinstance(row, list) or not row or not all(type(n) is int and 0 <= n <= _MAX_COUNT for n in row):
            raise ReportError(f"the load of the {model}'s layer {name} is not a list of counts")
        yield LayerLoad(str(name), model, top_k, num_tokens, tuple(row))


def _sum(one: LayerLoad, other: LayerLoad) -> LayerLoad:
    if len(one.load_E) != len(other.load_E) or one.top_k != other.top_k:
        raise ReportError(f"the ranks disagree on the experts of layer {one.name}")
    load_E = tuple(a + b for a, b in zip(one.load_E, other.load_E, strict=True))
    return LayerLoad(one.name, one.model, one.top_k, one.num_tokens + other.num_tokens, load_E)


def _member(values: dict[str, Any], key: str, types: tuple[type, ...]) -> Any:
    if key not in values or not isinstance(values[key], types):
        raise ReportError(f"a damaged report of a rank: {key} is missing or of another type")
    return values[key]
