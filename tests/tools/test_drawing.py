# SPDX-License-Identifier: Apache-2.0
"""The heat map that is drawn while something else runs: it is there at the end, and so is what went wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, write_heatmap
from vllm_ascend_ext.tools.demo import drawing

HEATMAP = Heatmap(load_LE=[[1, 2, 3, 4], [4, 3, 2, 1]], layer_names=["layer 0", "layer 1"], title="Expert load")


def test_both_files_are_those_that_are_drawn_here(tmp_path: Path) -> None:
    with drawing.drawn_meanwhile(HEATMAP, tmp_path / "meanwhile.png"):
        pass
    write_heatmap(HEATMAP, tmp_path / "here.png")
    for kind in (".png", ".html"):
        assert (tmp_path / f"meanwhile{kind}").read_bytes() == (tmp_path / f"here{kind}").read_bytes()


def test_what_goes_wrong_is_raised_here(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="missing"),
        drawing.drawn_meanwhile(HEATMAP, tmp_path / "missing" / "load.png"),
    ):
        pass


def test_an_error_of_the_block_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), drawing.drawn_meanwhile(HEATMAP, tmp_path / "load.png"):
        raise KeyError
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("*.part"))


def test_a_death_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "write_heatmap", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with (
        pytest.raises(ChildProcessError, match="has died"),
        drawing.drawn_meanwhile(HEATMAP, tmp_path / "load.png"),
    ):
        pass


def test_the_wait_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_DEADLINE_S", 0.1)
    monkeypatch.setattr(drawing, "write_heatmap", lambda *_: time.sleep(60))
    with (
        pytest.raises(TimeoutError, match="not drawn after"),
        drawing.drawn_meanwhile(HEATMAP, tmp_path / "load.png"),
    ):
        pass
