# SPDX-License-Identifier: Apache-2.0
"""Pages of race reports: of a real program on the emulator, and of reports with gaps and without history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from emulator.page.document import render, write_page
from emulator.page.drawing import MAX_LANES, draw
from emulator.page.reports import Gap, Report, ReportError, Task, Wait, read_reports

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import torch, torch_npu
from tests.emulator.races import planted

main, side = torch.npu.current_stream(), planted._side_stream()
values = planted._full(1)
torch.npu.synchronize()
values.add_(1)
side.wait_stream(main)   # an order that is there
values.mul_(2)
with torch.npu.stream(side):
    doubled = values * 3  # and one that is not, with mul_
torch.npu.synchronize()
planted.early_pinned_read(False)
planted.missing_wait_in_graph(False)
"""


def task(name: str, lane: int, index: int, **more: str) -> dict[str, Any]:
    return {"task": name, "stream": f"stream {lane} of npu:0", "lane": lane, "index": index, "at": "x.py:1"} | more


def race(history: list[Any], lanes: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    first = task("aclnnAdd", lanes[0], 1, does="writes it")
    second = task("aclnnMul", lanes[1], 1, does="reads it")
    return {"pid": 7, "text": "<both> use it", "first": first, "second": second, "history": history}


def read(folder: Path, *reports: dict[str, Any]) -> list[Report]:
    (folder / "7.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    return read_reports(folder)


def shapes(picture: str, kind: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(picture).iter() if element.get("class") == kind]


def titles(picture: str) -> list[str]:
    return [str(element.text) for element in ElementTree.fromstring(picture).iter("title")]


@pytest.mark.emulator
def test_a_program_is_drawn(tmp_path: Path) -> None:
    log, page = tmp_path / "log", tmp_path / "races.html"
    environ = os.environ | {"PYTHONPATH": str(ROOT), "EMULATOR_RACE_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 66, done.stderr
    drawn = subprocess.run(
        [sys.executable, "-m", "emulator", "page", str(log), "-o", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert drawn.stdout == f"{page}: 3 race reports\n", drawn.stderr

    streams, host, graph = read_reports(log)
    assert [step.name for step in streams.steps if isinstance(step, Task)][-1] == "aclnnMuls"
    # the wait that is there comes before the first party, or names an earlier task of its stream
    assert streams.first is not None and streams.second is not None
    waits = [step for step in streams.steps if isinstance(step, Wait) and step.lane == streams.second.lane]
    assert all(source != streams.first.place for wait in waits for source in wait.sources)
    assert streams.first.at.startswith("<string>:") and "writes it" in streams.first.does
    assert host.second is not None and host.second.name == "the program" and not host.steps
    assert graph.first is not None and "captured in graph" in graph.first.stream
    in_capture = [step for step in graph.steps if isinstance(step, Task)]
    assert in_capture and all("captured in graph" in step.stream for step in in_capture)
    assert "does not wait for" in page.read_text() and page.read_text().count("<svg") == 3


def test_an_arrow_for_each_wait_and_one_for_the_missing(tmp_path: Path) -> None:
    history = [
        task("aclnnAdd", 1, 1),
        task("aclnnSub", 3, 4),
        {"waiter": 2, "for": [[3, 4]]},
        {"waiter": -1, "for": [[3, 4]]},
        task("aclnnMul", 2, 1),
    ]
    (report,) = read(tmp_path, race(history))
    picture = draw(report)
    assert titles(picture) == ["aclnnAdd: x.py:1", "aclnnSub: x.py:1", "aclnnMul: x.py:1"]
    assert len(shapes(picture, "order line")) == 2
    (missing,) = shapes(picture, "lack line")
    boxes = shapes(picture, "party")
    assert len(boxes) == 2
    begin_y, end_y = (
        float(point.split(",")[1].split()[0])
        for point in (missing.attrib["d"][1:], missing.attrib["d"].split()[-1])
    )
    first, second = boxes
    assert begin_y == float(first.attrib["y"]) + float(first.attrib["height"])
    assert end_y == float(second.attrib["y"])
    assert "the program" in picture


def test_a_first_party_of_long_ago_and_a_gap(tmp_path: Path) -> None:
    (report,) = read(tmp_path, race([task("aclnnSub", 1, 900), 412, task("aclnnMul", 2, 1)]))
    assert Gap(412) in report.steps
    picture = draw(report)
    assert titles(picture)[0].startswith("aclnnAdd")  # put in front
    assert ">412 more<" in picture


def test_parties_stay_among_many_streams(tmp_path: Path) -> None:
    busy = [task("aclnnSub", lane, index) for lane in range(10, 30) for index in range(1, 4)]
    (report,) = read(tmp_path, race([task("aclnnAdd", 1, 1), *busy, task("aclnnMul", 2, 1)]))
    picture = draw(report)
    assert len(shapes(picture, "lane")) == MAX_LANES
    assert len(shapes(picture, "party")) == 2


def test_a_race_within_one_stream_and_hostile_names(tmp_path: Path) -> None:
    """A replay may race with itself in one lane; names are text, never markup."""
    report = race([])
    report["first"] = task("<script>", 2, 0, does="writes it")
    drawn = draw(read(tmp_path, report)[0])
    assert ElementTree.fromstring(drawn) is not None and "<script>" not in drawn
    assert "&lt;both&gt; use it" in render(read(tmp_path, report))


def test_a_report_without_parties_is_its_text(tmp_path: Path) -> None:
    reports = read(tmp_path, {"pid": 3, "text": "ranks called different collectives"})
    assert "different collectives" in render(reports) and "<svg" not in render(reports)


def test_no_races(tmp_path: Path) -> None:
    page = tmp_path / "races.html"
    assert write_page(tmp_path, page) == 0
    assert "No races" in page.read_text()


@pytest.mark.parametrize("line", ["{", '{"pid": 1}', '{"pid": 1, "text": "x", "history": [{"waiter": 1}]}', "[]"])
def test_a_damaged_file_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(line + "\n")
    with pytest.raises(ReportError, match=r"1\.jsonl:1"):
        read_reports(tmp_path)
