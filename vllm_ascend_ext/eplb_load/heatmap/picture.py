# SPDX-License-Identifier: Apache-2.0
"""Draws a picture of the load: layers down, experts across, each layer relative to its own average."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vllm_ascend_ext.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL_IN = 0.17  # side of a cell, in inches, while the picture stays within these limits
_WIDTH_IN = (5.0, 22.0)
_HEIGHT_IN = (1.6, 20.0)
_MARGIN_IN = (2.4, 1.5)
_TICK_PITCH_IN = (0.45, 0.14)  # least distance between labels, so that they do not overlap
_FONT_PT = 8
_DPI = 130


def write_heatmap_png(
    load_LE: torch.Tensor,
    path: str | Path,
    layer_names: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Draws load over the layer's average (1 is even) for each expert of each layer, into a PNG file.

    Layers without load are grey.

    Args:
        load_LE: ``[L, E]`` integers or floats, not negative, on any device.
        path: path of the file, replaced if it exists.
        layer_names: L labels; by default the numbers 0 to L - 1.
        title: title above the picture; None for none.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: another shape, or another number of names.
        OSError: the file cannot be written.
    """
    heatmap_figure(load_LE, layer_names, title).savefig(path, format="png", dpi=_DPI)


def heatmap_figure(
    load_LE: torch.Tensor, layer_names: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Returns the picture of `write_heatmap_png` as a matplotlib figure; same arguments and errors."""
    if load_LE.dim() != 2 or 0 in load_LE.shape:
        raise ValueError(f"load has shape {list(load_LE.shape)}, not [layers, experts]")
    num_layers, num_experts = load_LE.shape
    names = names_of_layers(layer_names, num_layers)
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"pictures need matplotlib: `pip install matplotlib` or the extra 'docs' ({error})"
        ) from error

    width = _clamped(num_experts * _CELL_IN, _WIDTH_IN)
    height = _clamped(num_layers * _CELL_IN, _HEIGHT_IN)
    figure = Figure(figsize=(width + _MARGIN_IN[0], height + _MARGIN_IN[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(
        relative_load(load_LE).numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap=colormaps["viridis"].with_extremes(bad="lightgrey"),
        vmin=0.0,
    )
    experts = _ticks(num_experts, width, _TICK_PITCH_IN[0])
    layers = _ticks(num_layers, height, _TICK_PITCH_IN[1])
    axes.set_xticks(experts, [str(expert) for expert in experts], fontsize=_FONT_PT)
    axes.set_yticks(layers, [names[layer] for layer in layers], fontsize=_FONT_PT)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    if title is not None:
        axes.set_title(printable(title))
    figure.colorbar(image, ax=axes, label="load / mean of the layer", pad=0.01)
    return figure


def relative_load(load_LE: torch.Tensor) -> torch.Tensor:
    """Returns ``[L, E]`` float64 on the host: each row divided by its mean; NaN in rows without load."""
    load_LE = load_LE.cpu().double()
    return load_LE / load_LE.mean(dim=1, keepdim=True)


def _clamped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def _ticks(count: int, length_in: float, pitch_in: float) -> list[int]:
    """Returns positions at a round step (1, 2, 4, 8, ...) no closer than `pitch_in` on an axis of `length_in`."""
    step = 1
    while length_in / count * step < pitch_in:
        step *= 2
    return list(range(0, count, step))


def names_of_layers(layer_names: Sequence[str] | None, num_layers: int) -> list[str]:
    """Returns a name to show for each layer: its number where none is given.

    Raises:
        ValueError: another number of names than of layers.
    """
    if layer_names is None:
        return [str(layer) for layer in range(num_layers)]
    if len(layer_names) != num_layers:
        raise ValueError(f"{len(layer_names)} layer names for {num_layers} layers")
    return [printable(name) for name in layer_names]
