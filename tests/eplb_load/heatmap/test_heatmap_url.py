# SPDX-License-Identifier: Apache-2.0
"""`heatmap --url` in front of a web server that answers as `vllm serve` does, otherwise, or not at all."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.eplb_load.heatmap.heatmap_page import Page
from tests.eplb_load.heatmap.reports import SUM, rank_report, two_ranks
from vllm_ascend_ext import cli
from vllm_ascend_ext.tools import heatmap_source

pytest.importorskip("matplotlib")

COMMAND = "import sys; from vllm_ascend_ext.cli import main; sys.exit(main())"
JSON = {"Content-Type": "application/json"}


class Answers:
    """What the server answers, in turn; the last one again and again. requests: paths and keys it has seen."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(answers):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answers.requests.append((self.path, self.headers.get("Authorization")))
            status, document, headers = answers.next()
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**JSON, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def heatmap(capsys, *arguments):
    status = cli.main(["heatmap", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("prefix", ["", "/", "/behind/proxy", "/behind/proxy/"])
def test_a_server_is_drawn(capsys, tmp_path, prefix):
    answers, picture = Answers((200, two_ranks(), {"Ascend-Ext-Num-Ranks": "2"})), tmp_path / "load.png"
    with serving(answers) as url:
        status, out, err = heatmap(capsys, "--url", url + prefix, picture, "--api-key", "secret")
    assert (status, err) == (0, "")
    assert answers.requests == [(prefix.rstrip("/") + "/ascend_ext/report", "Bearer secret")]
    first, second, note = out.splitlines()
    page = Page((tmp_path / "load.html").read_text())
    assert [first, second] == [str(picture), str(tmp_path / "load.html")]
    assert page.load == SUM and page.refresh is None and page.note == note
    assert note.startswith(f"{url}{prefix} at ") and note.endswith("counted by 2 ranks.")


def test_ranks_that_did_not_answer_are_told(capsys, tmp_path):
    """vLLM's client gives the answer of one data-parallel replica."""
    with serving(Answers((200, two_ranks(), {"Ascend-Ext-Num-Ranks": "4"}))) as url:
        status, out, _ = heatmap(capsys, "--url", url, tmp_path / "load.png")
    assert status == 0 and "2 of 4 ranks answered" in out
    assert "2 of 4 ranks answered" in Page((tmp_path / "load.html").read_text()).note


@pytest.mark.parametrize(
    ("answer", "status", "part"),
    [
        ((401, {"error": "Unauthorized"}, {}), 2, "give it with --api-key"),
        ((404, {"detail": "Not Found"}, {}), 1, "--additional-config"),
        ((503, {"error": "the engine gave no report: dead"}, {}), 1, "HTTP 503: the engine gave no report: dead"),
        ((500, b"<html>", {}), 1, "HTTP 500: Internal Server Error"),
        ((200, b"<html>", {}), 1, "the answer is not JSON"),
        ((200, {"error": 1}, {}), 1, "not a report of ranks"),
        ((200, [rank_report(0), rank_report(1)], {}), 1, "no rank counts expert load; start the engine with"),
    ],
)
def test_answers_that_cannot_be_drawn(capsys, tmp_path, answer, status, part):
    with serving(Answers(answer)) as url:
        result, out, err = heatmap(capsys, "--url", url, tmp_path / "load.png")
    assert (result, out) == (status, "") and err.count("\n") == 1
    assert err.startswith(f"vllm-ascend-ext: error: {url}/ascend_ext/report: ") and part in err
    assert not list(tmp_path.iterdir())


def test_nobody_there(capsys, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        status, out, err = heatmap(
            capsys, "--url", f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path / "a.png"
        )
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "no answer (" in err and "is `vllm serve` running there?" in err


def test_a_server_that_is_silent(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap_source, "_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        status, _, err = heatmap(
            capsys, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "a.png"
        )
    assert status == 1 and err.count("\n") == 1 and "no answer (timed out)" in err


@contextmanager
def drawing(url, picture, every):
    command = [sys.executable, "-c", COMMAND, "heatmap", "--url", url, str(picture), "--every", every]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(page, load, deadline_s=300.0):
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if page.exists() and (found := Page(page.read_text())).load == load:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{page} did not show {load}")


def times(factor):
    return [[count * factor for count in row] for row in SUM]


def test_every_draws_again_until_interrupted(tmp_path):
    answers = Answers(*[(200, two_ranks(factor), {}) for factor in (1, 2)])
    page, picture = tmp_path / "load.html", tmp_path / "load.png"
    with serving(answers) as url, drawing(url, picture, "0.5") as process:
        assert process.stdout is not None and process.stdout.readline() == f"{picture}\n"
        before = picture.read_bytes()
        assert wait_for(page, times(2)).refresh == "1"
        answers.answers = [(200, [rank_report(0), *two_ranks(3)], {})]
        wait_for(page, times(3))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and err == "vllm-ascend-ext: interrupted\n"
    last = Page(page.read_text())
    assert last.load == times(3) and last.refresh is None and last.note.startswith("No longer drawn again. ")
    assert picture.read_bytes() != before  # the title tells of three ranks
    assert sorted(tmp_path.iterdir()) == [page, picture]


def test_every_ends_with_its_server(tmp_path):
    answers = Answers((200, two_ranks(), {}), (503, {"error": "the engine is dead"}, {}))
    with serving(answers) as url, drawing(url, tmp_path / "load.png", "0.1") as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and err.count("\n") == 1 and "HTTP 503: the engine is dead" in err
    last = Page((tmp_path / "load.html").read_text())
    assert last.load == SUM and last.refresh is None and last.note.startswith("No longer drawn again. ")
