# SPDX-License-Identifier: Apache-2.0
"""The load in the ranks' reports, and `heatmap` of files that hold them."""

import json
import subprocess
import sys

import pytest

from tests.eplb_load.heatmap.heatmap_page import Page
from tests.eplb_load.heatmap.reports import DRAFT, LABELS, SUM, TARGET, of_model, rank_report, two_ranks
from vllm_ascend_ext import cli
from vllm_ascend_ext.eplb_load.reported_load import NoLoadError, ReportError, loads_of_report


def test_the_load_is_summed_over_the_ranks_by_model():
    load = loads_of_report(two_ranks())
    assert [layer.name for layer in load.layers] == TARGET + DRAFT
    assert [layer.model for layer in load.layers] == ["target", "target", "draft"]
    assert [list(layer.load_E) for layer in load.layers] == SUM
    assert [layer.num_tokens for layer in load.layers] == [5, 5, 3]
    assert all(sum(layer.load_E) == layer.num_tokens * layer.top_k for layer in load.layers)
    assert (load.num_ranks, load.num_counting, load.has_handovers) == (2, 2, True)
    assert load.num_tokens("target") == 5 and load.num_tokens("draft") == 3


def test_the_sum_is_exact_beyond_what_a_float_can_count():
    reports = [rank_report(rank, of_model(TARGET[:1], 2**61, [2**53 + 1, 2**60])) for rank in range(3)]
    (layer,) = loads_of_report(reports).layers
    assert layer.load_E == (3 * 2**53 + 3, 3 * 2**60) and layer.num_tokens == 3 * 2**61


def test_one_rank_and_ranks_that_do_not_count():
    one = two_ranks()[0]
    assert loads_of_report(one) == loads_of_report([one])
    load = loads_of_report([rank_report(4), one, rank_report(2)])
    assert (load.num_ranks, load.num_counting) == (3, 1)
    assert [list(layer.load_E) for layer in load.layers] == [[4, 1, 0], [1, 0, 4], [0, 1, 1]]


def test_ranks_with_other_layers_are_put_together():
    """Pipeline stages hold layers of their own."""
    reports = [rank_report(i, of_model([name], 1, [i, 2 - i])) for i, name in enumerate(TARGET)]
    assert [(layer.name, layer.load_E) for layer in loads_of_report(reports).layers] == [
        (TARGET[0], (0, 2)),
        (TARGET[1], (1, 1)),
    ]


@pytest.mark.parametrize("document", [rank_report(0), [rank_report(0), rank_report(1)]])
def test_no_load_names_the_switch(document):
    with pytest.raises(NoLoadError, match=r"no rank counts expert load; .*eplb_load.*enabled.*true"):
        loads_of_report(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a report of ranks"),
        ({}, "not a report of ranks"),
        ("text", "not a report of ranks"),
        ([1], "not a report of ranks"),
        ([{"rank": 0}], "eplb_load is missing"),
        ({"rank": 0, "load": []}, "eplb_load is missing"),
        ({"rank": 0, "eplb_load": {}}, "has_handovers is missing"),
        ({"rank": 0, "eplb_load": {"has_handovers": True}}, "load is missing"),
        (rank_report(0, 1), "load of a model is no object, but 1"),
        (rank_report(0, {"layers": []}), "model is missing"),
        (rank_report(0, {"model": "target", "layers": []}), "load_LE is missing"),
        (rank_report(0, of_model(TARGET, 1, [1]) | {"model": "third"}), "none of target, draft"),
        (rank_report(0, of_model(TARGET, 1, [1])), "2 layers and load of 1"),
        (rank_report(0, of_model(DRAFT, 1, [])), "not a list of counts"),
        (rank_report(0, of_model(DRAFT, 1, [1, -1])), "not a list of counts"),
        (rank_report(0, of_model(DRAFT, 1, [1, 2.0])), "not a list of counts"),
        (rank_report(0, of_model(DRAFT, 1, [1, True])), "not a list of counts"),
        (rank_report(0, of_model(DRAFT, 1, [2**63])), "not a list of counts"),
        ([rank_report(i, of_model(DRAFT, 1, [1] * (i + 1))) for i in range(2)], "ranks disagree"),
        (rank_report(0, of_model(TARGET, 1, [1], [1, 2])), "layers of 1, 2 experts"),
    ],
)
def test_other_documents_are_refused(document, message):
    with pytest.raises(ReportError, match=message) as raised:
        loads_of_report(document)
    assert "\n" not in str(raised.value)


def test_reading_a_report_needs_neither_torch_nor_vllm():
    code = "import sys, vllm_ascend_ext.eplb_load.reported_load\n"
    code += "assert not {'torch', 'vllm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _heatmap(capsys, *arguments):
    status = cli.main(["heatmap", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("wrap", [lambda reports: reports, lambda reports: {"results": reports}])
def test_a_saved_report_is_drawn(capsys, tmp_path, wrap):
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "report.json", tmp_path / "load.png"
    report.write_text(json.dumps(wrap(two_ranks())))
    status, out, err = _heatmap(capsys, report, picture)
    note = "5 tokens of the target and 3 tokens of the draft, counted by 2 ranks."
    assert (status, err) == (0, "")
    assert out.splitlines() == [str(picture), str(picture.with_suffix(".html")), note]
    text = picture.with_suffix(".html").read_text()
    page = Page(text)
    assert page.load == SUM and page.note == note and page.refresh is None
    assert [row[0] for row in page.rows if row] == LABELS
    assert "<title>Expert load of 2 ranks</title>" in text


def test_the_same_load_gives_the_same_picture_and_another_gives_another(capsys, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    summed = [rank_report(0, of_model(TARGET, 5, *SUM[:2]), of_model(DRAFT, 3, SUM[2])), rank_report(1)]
    moved = [rank_report(0, of_model(TARGET, 5, *SUM[1::-1]), of_model(DRAFT, 3, SUM[2])), rank_report(1)]
    pictures = []
    for name, reports in (("two", two_ranks()), ("sum", summed), ("moved", moved)):
        (tmp_path / f"{name}.json").write_text(json.dumps(reports))
        picture = tmp_path / f"{name}.png"
        assert _heatmap(capsys, tmp_path / f"{name}.json", picture)[0] == 0
        pictures.append(image.imread(picture))
    two, same, other = pictures
    assert two.shape == same.shape == other.shape
    assert (two == same).all() and (two != other).any()
    assert "1 rank without expert load skipped" in Page((tmp_path / "sum.html").read_text()).note


def test_missing_handovers_are_told(capsys, tmp_path):
    """A server of another data-parallel replica than the first has only what its own ranks still hold."""
    pytest.importorskip("matplotlib")
    (tmp_path / "report.json").write_text(json.dumps([rank_report(1, of_model(TARGET, 1, [1, 1], [2, 0]))]))
    status, out, _ = _heatmap(capsys, tmp_path / "report.json", tmp_path / "load.png")
    assert status == 0 and "what all ranks have handed over is missing" in out
    assert "missing" in Page((tmp_path / "load.html").read_text()).note


def test_a_report_without_traffic_is_grey(capsys, tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    (tmp_path / "report.json").write_text(json.dumps(two_ranks(times=0)))
    status, out, err = _heatmap(capsys, tmp_path / "report.json", tmp_path / "load.png")
    assert (status, err) == (0, "") and "0 tokens of the target" in out
    assert not recwarn.list


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (rank_report(0), "no rank counts expert load; start the engine with"),
        ([{"rank": 0}], "eplb_load is missing"),
        ([3], "not a report of ranks"),
        ({"results": []}, "not a report of ranks"),
        ({"answer": 42}, "not a report of `demo --json` (no schema number) or of ranks (no rank)"),
    ],
)
def test_files_that_cannot_be_drawn(capsys, tmp_path, document, part):
    (tmp_path / "report.json").write_text(json.dumps(document))
    status, out, err = _heatmap(capsys, tmp_path / "report.json", tmp_path / "load.png")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("vllm-ascend-ext: error: ") and "report.json: " in err and part in err
    assert not (tmp_path / "load.png").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["load.png"], "REPORT.json or --url"),
        (["report.json", "load.png", "--url", "http://a:1"], "give one of the two"),
        (["report.json", "load.png", "--every", "1"], "give its --url"),
        (["report.json", "load.png", "--api-key", "x"], "give its --url"),
        (["load.png", "--url", "http://a:1", "--every", "0"], "seconds above 0"),
        (["load.png", "--url", "http://a:1", "--every", "nan"], "seconds above 0"),
        (["load.png", "--url", "http://a:1", "--every", "inf"], "seconds above 0"),
        (["load.html", "--url", "http://a:1"], "ends in .png"),
        *[
            (["load.png", "--url", url], "give the server's address")
            for url in ("a:1", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://[a", "http://a?b", "")
        ],
    ],
)
def test_arguments_that_cannot_work(capsys, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    status, out, err = _heatmap(capsys, *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1 and part in err
    assert not list(tmp_path.iterdir())
