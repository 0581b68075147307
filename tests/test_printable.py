# SPDX-License-Identifier: Apache-2.0
"""What a client or a peer names reaches the operator's terminal, log and page as text and nothing else."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zmq

from vllm_ascend_ext import cli
from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, write_heatmap
from vllm_ascend_ext.mtp_output.errors import ChannelError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, Section, Source
from vllm_ascend_ext.mtp_output.remote.messages import Kind
from vllm_ascend_ext.mtp_output.remote.reader import ZmqReader
from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound
from vllm_ascend_ext.mtp_output.tail import Tail
from vllm_ascend_ext.printable import printable

# clears the screen; sets the title (a C1 control); deletes; turns text round; ends a line, twice
EVIL = "é 中 \x1b[2J\x9b0;1\x7f\u202etxt\r\n\u2028end"
HARMLESS = "é 中 \\x1b[2J\\x9b0;1\\x7f\\u202etxt\\r\\n\\u2028end"


def tail_of(request_id: str, *, as_json: bool) -> str:
    section = Section.from_arrays(
        Source.TARGET, (request_id,), np.array([1], np.int32), np.array([0], np.int32), np.array([[7]], np.int32)
    )
    out = io.StringIO()
    Tail(out, as_json).show(Frame(0, 0, 0, 0, (section,), 0))
    return out.getvalue()


def message_of(call: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def assert_plain(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), repr(text)


def test_what_is_not_to_be_seen_is_an_escape() -> None:
    assert printable(EVIL) == HARMLESS and printable(HARMLESS) == HARMLESS
    assert printable("\udc80") == "\\udc80"


def test_tail_shows_an_id_on_one_line() -> None:
    shown = tail_of(EVIL, as_json=False)
    assert_plain(shown)
    assert HARMLESS in shown and shown.count("\n") == 1
    as_json = tail_of(EVIL, as_json=True)
    assert_plain(as_json)
    assert as_json.count("\n") == 1


def test_errors_that_name_a_request() -> None:
    assert_plain(message_of(lambda: LaunchBound(1).prefill(EVIL, 0, is_last=True), ValueError))


def test_what_a_peer_refuses_with() -> None:
    context = zmq.Context()
    peer = context.socket(zmq.ROUTER)
    port = peer.bind_to_random_port("tcp://127.0.0.1")

    def refuse() -> None:
        reader, _ = peer.recv_multipart()
        peer.send_multipart([reader, bytes([Kind.REFUSED]) + EVIL.encode()])

    thread = threading.Thread(target=refuse, daemon=True)
    thread.start()
    try:
        text = message_of(lambda: ZmqReader(f"tcp://127.0.0.1:{port}", 0, 0, 10), ChannelError)
        thread.join(10)
    finally:
        context.destroy(linger=0)
    assert_plain(text)
    assert HARMLESS in text


@pytest.mark.parametrize("error", [ChannelError(EVIL), KeyError(EVIL), OSError(EVIL), ValueError(EVIL)])
def test_a_command_says_its_error_on_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr("vllm_ascend_ext.commands.tail.run", fail)
    assert cli.main(["tail"]) == 1
    said = capsys.readouterr().err
    assert_plain(said)
    assert said.count("\n") == 1


def test_a_server_that_ends_says_why_as_text() -> None:
    code = (
        "from vllm_ascend_ext.integration.errors import StartupError, print_plain_errors\n"
        f"print_plain_errors(); raise StartupError('first line' + chr(10) + {EVIL!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert_plain(done.stderr)
    assert done.returncode == 1 and "error: first line\né 中 \\x1b[2J" in done.stderr


def test_a_page_shows_names_and_notes_as_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heatmap = Heatmap([[1, 2]], [EVIL], title=EVIL, note=EVIL + "<b>")
    page = write_heatmap(heatmap, tmp_path / "load.png").read_text(encoding="utf-8")
    assert_plain(page)
    assert page.count(HARMLESS) >= 3 and "<b>" not in page
