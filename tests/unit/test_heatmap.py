# SPDX-License-Identifier: Apache-2.0
import sys

import pytest
import torch

from vllm_ascend_ext.eplb.heatmap import heatmap_figure, relative_load, write_heatmap_png


def test_rows_are_relative_to_their_mean_and_idle_rows_are_blank():
    relative = relative_load(torch.tensor([[1, 3], [0, 0], [100, 100]], dtype=torch.int32))
    assert relative[0].tolist() == [0.5, 1.5] and relative[2].tolist() == [1.0, 1.0]
    assert relative[1].isnan().all()


def _axes(figure):
    figure.canvas.draw()
    return figure.axes[0], figure.canvas.get_renderer()


@pytest.mark.parametrize("shape", [(1, 1), (2, 8), (58, 256)])
def test_labels_are_inside_the_picture_and_do_not_overlap(shape):
    pytest.importorskip("matplotlib")
    names = [f"model.layers.{layer}" for layer in range(shape[0])]
    figure = heatmap_figure(torch.randint(0, 9, shape), names, "load")
    axes, renderer = _axes(figure)
    for axis, count in ((axes.xaxis, shape[1]), (axes.yaxis, shape[0])):
        boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels()]
        assert 1 <= len(boxes) <= count
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
        for one, next_one in zip(boxes, boxes[1:], strict=False):
            assert not one.overlaps(next_one)
    assert [label.get_text() for label in axes.get_yticklabels()][0] == "model.layers.0"
    assert axes.get_title() == "load"


def test_image_shows_the_relative_load():
    pytest.importorskip("matplotlib")
    load = torch.tensor([[1, 3], [2, 2]])
    axes, _ = _axes(heatmap_figure(load))
    assert axes.images[0].get_array().tolist() == [[0.5, 1.5], [1.0, 1.0]]


def test_png_is_written_and_replaced(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "load.png"
    path.write_bytes(b"old")
    write_heatmap_png(torch.randint(0, 9, (4, 16)), path, title="load")
    pixels = image.imread(path)
    assert pixels.ndim == 3 and min(pixels.shape[:2]) > 100
    assert pixels.reshape(-1, pixels.shape[2]).std(axis=0).max() > 0.05


@pytest.mark.parametrize(
    ("load", "names", "message"),
    [
        (torch.zeros(3), None, "not"),
        (torch.zeros(0, 3), None, "not"),
        (torch.zeros(2, 3), ["a"], "1 layer names"),
    ],
)
def test_bad_arguments(load, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_heatmap_png(load, tmp_path / "load.png", names)


def test_missing_matplotlib_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        write_heatmap_png(torch.ones(1, 1), tmp_path / "load.png")
