# SPDX-License-Identifier: Apache-2.0
import sys

import pytest
import torch

from tests.eplb_load.heatmap.heatmap_page import Page
from vllm_ascend_ext.eplb_load.balance import expert_imbalance
from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, write_heatmap
from vllm_ascend_ext.eplb_load.heatmap.page import write_heatmap_page
from vllm_ascend_ext.eplb_load.heatmap.picture import heatmap_figure, relative_load, write_heatmap_png


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


def test_page_is_self_contained_and_has_every_number(tmp_path):
    load = torch.randint(0, 1000, (58, 256))
    load[3] = 0
    names = [f"layer {i}" for i in range(57)] + ["</script><b>layer 57 & more"]
    path = tmp_path / "load.html"
    write_heatmap_page(load, path, names, "a <title>")
    text = path.read_text()
    page = Page(text)
    assert page.addresses == [] and "http" not in text and text.count("<script") == 1
    assert "<title>a &lt;title&gt;</title>" in text
    rows = [row for row in page.rows if row]
    imbalance = expert_imbalance(load)
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == [f"{total:,}" for total in imbalance.total]
    assert [row[2] for row in rows] == [f"{ratio:.2f}" for ratio in imbalance.max_over_mean]
    assert [row[3] for row in rows] == [f"{variation:.2f}" for variation in imbalance.variation]
    busiest = int(load[0].argmax())
    assert rows[0][4].startswith(f"{busiest} (") and rows[3][4] == ""
    assert page.load == load.tolist()
    assert page.note == "" and page.refresh is None


@pytest.mark.parametrize(
    ("load", "names"),
    [
        (torch.zeros(3), None),
        (torch.ones(2, 2), None),
        (-torch.ones(1, 1).long(), None),
        (torch.ones(2, 2).long(), ["a"]),
    ],
)
def test_page_refuses_bad_arguments(load, names, tmp_path):
    with pytest.raises(ValueError):
        write_heatmap_page(load, tmp_path / "load.html", names)
    assert not list(tmp_path.iterdir())


def test_a_note_is_text_and_a_page_refreshes_itself_only_when_asked_to(tmp_path):
    path, load = tmp_path / "load.html", torch.ones(1, 2, dtype=torch.int64)
    write_heatmap_page(load, path, note="<script>2 of 4 ranks</script>", refresh_s=3)
    page = Page(path.read_text())
    assert page.note == "<script>2 of 4 ranks</script>" and page.refresh == "3" and page.load == [[1, 1]]


def test_a_failed_heatmap_leaves_the_old_files_and_no_parts(tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    page = write_heatmap(Heatmap([[1, 2]], ["a"], "first"), picture)
    before = {path: path.read_bytes() for path in (picture, page)}
    assert sorted(tmp_path.iterdir()) == sorted(before)
    with pytest.raises(ValueError, match="2 layer names"):
        write_heatmap(Heatmap([[3, 4]], ["a", "b"], "second"), picture)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_heatmap(Heatmap([[3, 4]], ["a"], "second"), picture)
    assert all(path.read_bytes() != content for path, content in before.items())
