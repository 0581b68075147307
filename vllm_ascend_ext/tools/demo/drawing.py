# SPDX-License-Identifier: Apache-2.0
"""Draws the heat map in a process of its own, while the engine to compare with uses one core."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from vllm_ascend_ext.eplb_load.heatmap.heatmap import Heatmap, write_heatmap

_DEADLINE_S = 120.0
_END_S = 5.0  # for removing what is half written


@contextmanager
def drawn_meanwhile(heatmap: Heatmap, picture: Path) -> Iterator[None]:
    """Writes a heat map while the block runs; both files are there when it ends.

    Raises what `write_heatmap` does, and OSError when the process dies or takes too long.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_draw, args=(heatmap, picture, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield
        if not ours.poll(_DEADLINE_S):
            raise TimeoutError(f"heat map {picture}: not drawn after {_DEADLINE_S:g} s")
        try:
            error = ours.recv()
        except EOFError:
            raise ChildProcessError(f"heat map {picture}: the process that draws it has died") from None
        if error is not None:
            raise error
    finally:
        process.terminate()
        process.join(_END_S)
        process.kill()
        process.join()
        ours.close()


def _draw(heatmap: Heatmap, picture: Path, pipe: Connection) -> None:
    """Draws, and sends None or the error. An interrupt from the terminal is for the parent, which ends this."""
    os.setsid()
    try:
        write_heatmap(heatmap, picture)
    except Exception as error:
        pipe.send(error)
    else:
        pipe.send(None)
