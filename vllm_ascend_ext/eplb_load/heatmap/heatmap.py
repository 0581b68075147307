# SPDX-License-Identifier: Apache-2.0
"""Writes a heat map as two files: a PNG for documents, and beside it an HTML page to point at."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vllm_ascend_ext.eplb_load.heatmap.page import write_heatmap_page
from vllm_ascend_ext.eplb_load.heatmap.picture import write_heatmap_png
from vllm_ascend_ext.eplb_load.reported_load import ReportedLoad


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Holds the load and the texts of one heat map.

    Attributes:
        load_LE: tokens of each expert of each layer.
        layer_names: L labels.
        title: title of both pictures.
        note: paragraph below the page's title: where the numbers are from and what they lack; empty for none.
    """

    load_LE: Sequence[Sequence[int]]
    layer_names: Sequence[str]
    title: str
    note: str = ""


def heatmap_of(load: ReportedLoad) -> Heatmap:
    """Returns the heat map of the ranks' reports."""
    counts = [f"{load.num_tokens(model):,} tokens of the {model}" for model in ("target", "draft")]
    has_draft = any(layer.model == "draft" for layer in load.layers)
    note = f"{' and '.join(counts if has_draft else counts[:1])}, counted by {_ranks(load.num_counting)}."
    if load.num_counting < load.num_ranks:
        note += f" {_ranks(load.num_ranks - load.num_counting)} without expert load skipped."
    if not load.has_handovers:
        note += " The first rank is not among them: what all ranks have handed over is missing."
    return Heatmap(
        load_LE=[layer.load_E for layer in load.layers],
        layer_names=[layer_label(layer.name, layer.model == "draft") for layer in load.layers],
        title=f"Expert load of {_ranks(load.num_ranks)}",
        note=note,
    )


def layer_label(name: str, is_draft: bool) -> str:
    """Returns a layer's name for people: "layer 3 (draft)" for model.layers.3.mlp.experts."""
    number = re.search(r"\blayers\.(\d+)\b", name)
    return (f"layer {number[1]}" if number else name) + (" (draft)" if is_draft else "")


def write_heatmap(heatmap: Heatmap, picture: Path, *, refresh_s: int | None = None) -> Path:
    """Writes both files and returns the page's path. A reader sees the old file or the new one, never a part.

    Args:
        heatmap: the heat map to write.
        picture: path of the PNG; the page's ends in .html.
        refresh_s: time after which a browser loads the page again, in seconds; None for never.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    load_LE = torch.tensor(heatmap.load_LE, dtype=torch.int64)
    page = picture.with_suffix(".html")
    parts = [path.with_name(f".{path.name}.part") for path in (picture, page)]
    try:
        write_heatmap_png(load_LE, parts[0], heatmap.layer_names, heatmap.title)
        write_heatmap_page(
            load_LE, parts[1], heatmap.layer_names, heatmap.title, note=heatmap.note, refresh_s=refresh_s
        )
        for part, path in zip(parts, (picture, page), strict=True):
            os.replace(part, path)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    return page


def _ranks(number: int) -> str:
    return f"{number} rank" + ("" if number == 1 else "s")
