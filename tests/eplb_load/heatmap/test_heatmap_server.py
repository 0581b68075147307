# SPDX-License-Identifier: Apache-2.0
"""`heatmap --url` of a real `vllm serve` draws what the endpoint reports, and that is what was routed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.eplb_load.heatmap.heatmap_page import Page
from tests.support.server import MODEL_NAME, TWO_RANKS, Server
from vllm_ascend_ext import cli

pytestmark = pytest.mark.engine

KEY, ROOT = "a-key", "/behind/a/proxy"
COMMAND = "import sys; from vllm_ascend_ext.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def server(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = (*TWO_RANKS, "--dtype", "float32", "--api-key", KEY, "--root-path", ROOT)
    running = Server(Path(tiny_model), arguments, tmp_path_factory.mktemp("serve"))
    try:
        running.wait_until_healthy(600)  # a bound, not a measurement
        yield running
    finally:
        running.stop()


def ask(server: Server, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=120) as answer:
        return json.load(answer)


def complete(server: Server, num_tokens: int) -> int:
    """Completes a prompt; returns how many tokens the target model has seen at least."""
    body = {"model": MODEL_NAME, "prompt": "def main(", "max_tokens": num_tokens, "temperature": 0}
    usage = ask(server, "/v1/completions", body | {"ignore_eos": True})["usage"]
    return int(usage["prompt_tokens"] + usage["completion_tokens"] - 1)


def heatmap(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["heatmap", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


def summed(reports: list[dict[str, Any]]) -> list[list[int]]:
    """The load of all layers, target first, summed over the ranks without the product's code."""
    loads = [report["eplb_load"]["load"] for report in reports]
    return [
        [sum(counts) for counts in zip(*rows, strict=True)]
        for models in zip(*loads, strict=True)
        for rows in zip(*(model["load_LE"] for model in models), strict=True)
    ]


def test_the_picture_has_the_endpoints_numbers_and_grows_with_traffic(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = pytest.importorskip("matplotlib.image")
    picture, saved = tmp_path / "load.png", tmp_path / "report.json"
    num_tokens, totals = 0, []
    for count in (30, 50):
        num_tokens += complete(server, count)
        time.sleep(1.1)  # longer than a report is kept
        status, out, err = heatmap(capsys, "--url", server.url, picture, "--api-key", KEY)
        assert (status, err) == (0, "") and "counted by 2 ranks." in out and "answered" not in out
        reports = ask(server, "/ascend_ext/report")
        page = Page((tmp_path / "load.html").read_text())
        assert [report["rank"] for report in reports] == [0, 1]
        assert page.load == summed(reports) and len(page.load) == 3
        target, draft = reports[0]["eplb_load"]["load"]
        rows = sum(report["eplb_load"]["load"][0]["num_tokens"] for report in reports)
        assert rows >= num_tokens  # rejected drafts are routed, too
        assert {sum(row) for row in page.load[:2]} == {rows * target["top_k"]}
        assert (target["model"], draft["model"]) == ("target", "draft") and sum(page.load[2]) > 0
        totals.append([sum(row) for row in page.load])
    assert all(late > early for early, late in zip(*totals, strict=True))

    saved.write_text(json.dumps(reports))
    status, out, err = heatmap(capsys, saved, tmp_path / "saved.png")
    assert (status, err) == (0, "")
    assert (image.imread(tmp_path / "saved.png") == image.imread(picture)).all()
    assert Page((tmp_path / "saved.html").read_text()).load == page.load


def test_key_and_root_path(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert server.get("/ascend_ext/report")[0] == 401
    status, out, err = heatmap(capsys, "--url", server.url, tmp_path / "load.png")
    assert (status, out) == (2, "") and err.count("\n") == 1 and "give it with --api-key" in err
    status, _, err = heatmap(capsys, "--url", server.url + ROOT, tmp_path / "load.png", "--api-key", KEY)
    assert (status, err) == (0, "")


def test_a_page_that_is_drawn_again_follows_the_traffic(server: Server, tmp_path: Path) -> None:
    page = tmp_path / "load.html"
    command = [sys.executable, "-c", COMMAND, "heatmap", "--url", server.url, str(tmp_path / "load.png")]
    with subprocess.Popen(
        [*command, "--api-key", KEY, "--every", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as drawing:
        try:
            assert drawing.stdout is not None and drawing.stdout.readline()
            first = Page(page.read_text())
            complete(server, 20)
            end = time.monotonic() + 120
            while (now := Page(page.read_text())).load == first.load and time.monotonic() < end:
                time.sleep(0.2)
            assert all(sum(late) > sum(early) for early, late in zip(first.load, now.load, strict=True))
            assert first.refresh == now.refresh == "1"
            drawing.send_signal(signal.SIGINT)
            _, err = drawing.communicate(timeout=60)
        finally:
            drawing.kill()
    assert drawing.returncode == 130 and err == "vllm-ascend-ext: interrupted\n"
    assert Page(page.read_text()).refresh is None


def test_a_worker_that_is_stuck_is_said_in_time(
    server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And once it goes on, so does the endpoint."""
    worker = psutil.Process(server.workers()[1])
    worker.suspend()
    try:
        started = time.monotonic()
        status, out, err = heatmap(capsys, "--url", server.url, tmp_path / "load.png", "--api-key", KEY)
        assert time.monotonic() - started < 60
    finally:
        worker.resume()
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "HTTP 503: the engine gave no report: no answer within 10 s" in err
    assert not list(tmp_path.iterdir())
    complete(server, 5)
    assert len(ask(server, "/ascend_ext/report")) == 2
