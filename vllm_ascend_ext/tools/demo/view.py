# SPDX-License-Identifier: Apache-2.0
"""Shows the demo while it runs: spinners, a bar over tokens, the growing text; plain lines off a terminal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

OnDelta = Callable[[int, str, int], None]
_REDRAW_S = 0.1
_PROMPT_WIDTH = 26
_LINES_AROUND = 6  # of the terminal, kept free around the growing texts


class DemoView:
    """Shows progress on one console: live when it is a terminal, else one line a phase and one a finished
    prompt."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Shows a spinner while the block runs, then a line with its seconds."""
        with self._timed(what), self._live(_bar(what)):
            yield

    @contextmanager
    def engine(self, what: str, prompts: Sequence[str], max_tokens: int, *, texts: bool) -> Iterator[OnDelta]:
        """Shows start-up and generation of one engine; the block gets the callback for its tokens.

        texts: also show what the prompts are completed with.
        """
        progress = _EngineProgress(self._console, what, prompts, max_tokens, texts=texts)
        with self._timed(what), self._live(progress):
            yield progress.add if self._console.is_terminal else progress.add_plainly
        if texts and self._console.is_terminal:
            self._console.print(progress.final())

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        if not self._console.is_terminal:
            self._console.print(Text(f"{what} ..."), soft_wrap=True)
        yield
        self._console.print(Text(f"{what}: {time.perf_counter() - started:.1f} s"), soft_wrap=True)

    @contextmanager
    def _live(self, content: RenderableType) -> Iterator[None]:
        """Shows `content` and redraws it until the block ends, when it disappears."""
        if not self._console.is_terminal:
            yield
            return
        # auto_refresh and the redirections are off: a forked rank would inherit the thread's locks and the proxies
        live = Live(
            content,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live, _redrawing(live):
            yield


class _EngineProgress:
    """Renders itself: a spinner until the first token, then the bar and, with `texts`, one line a prompt."""

    def __init__(
        self, console: Console, what: str, prompts: Sequence[str], max_tokens: int, *, texts: bool
    ) -> None:
        self._console = console
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._shows_texts = texts
        self._texts = [""] * len(prompts)
        self._counts = [0] * len(prompts)
        self._bar = _bar(what)

    def add(self, index: int, text: str, num_tokens: int) -> None:
        """Takes new text of a prompt; the display redraws itself."""
        self._texts[index] += text
        self._counts[index] += num_tokens
        total = len(self._prompts) * self._max_tokens
        done = sum(self._counts)
        self._bar.update(self._bar.task_ids[0], total=total, completed=done, counts=f"{done}/{total} tokens")

    def add_plainly(self, index: int, text: str, num_tokens: int) -> None:
        """Takes new text of a prompt and prints it once it is complete."""
        self.add(index, text, num_tokens)
        if self._shows_texts and self._counts[index] >= self._max_tokens:
            line = f"  {_visible(self._prompts[index])} => {_visible(self._texts[index])}"
            self._console.print(Text(line), soft_wrap=True)

    def final(self) -> Table:
        """Returns all prompts with their whole completions."""
        table = Table(box=None, padding=(0, 1), show_header=False)
        table.add_column(style="dim", max_width=_PROMPT_WIDTH)
        table.add_column(overflow="fold")
        for prompt, text in zip(self._prompts, self._texts, strict=True):
            table.add_row(Text(_tail(_visible(prompt), _PROMPT_WIDTH)), Text(_visible(text)))
        return table

    def __rich__(self) -> RenderableType:
        if not self._shows_texts or not any(self._counts):
            return self._bar
        width = max(self._console.width - _PROMPT_WIDTH - 4, 10)
        table = Table(box=None, padding=(0, 1), show_header=False)
        table.add_column(style="dim", width=_PROMPT_WIDTH, no_wrap=True)
        table.add_column(width=width, no_wrap=True)
        shown = max(self._console.height - _LINES_AROUND, 1)
        for prompt, text in list(zip(self._prompts, self._texts, strict=True))[:shown]:
            table.add_row(Text(_tail(_visible(prompt), _PROMPT_WIDTH)), Text(_tail(_visible(text), width)))
        rest = len(self._prompts) - shown
        lines: list[RenderableType] = [self._bar, table]
        return Group(*lines, Text(f" ... and {rest} more prompts", style="dim")) if rest > 0 else Group(*lines)


class _Redrawer:
    """Redraws a live display in a thread, which rests during a fork, so that no rank inherits a lock it holds."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="demo-redraw", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(_REDRAW_S):
            self._live.refresh()


_redrawers: list[_Redrawer] = []  # at most the one that is running


@contextmanager
def _redrawing(live: Live) -> Iterator[None]:
    redrawer = _Redrawer(live)
    redrawer.start()
    _redrawers.append(redrawer)
    try:
        yield
    finally:
        _redrawers.remove(redrawer)
        redrawer.stop()


def _before_fork() -> None:
    for redrawer in _redrawers:
        redrawer.stop()


def _after_fork_in_parent() -> None:
    for redrawer in _redrawers:
        redrawer.start()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)


def _bar(what: str) -> Progress:
    """Makes a spinner that becomes a bar once its task has a total. Never started: the live display renders it."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        auto_refresh=False,
    )
    bar.add_task(what, total=None, counts="")
    return bar


def _visible(text: str) -> str:
    """Returns the text on one line, with line ends and control characters visible."""
    text = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _tail(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
