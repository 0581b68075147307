# SPDX-License-Identifier: Apache-2.0
"""Prints what a replica of a running server accepts, as it is accepted (`vllm-ascend-ext tail`). It only looks
on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

import numpy as np

from vllm_ascend_ext.mtp_output.acceptance import Acceptance
from vllm_ascend_ext.mtp_output.errors import ChannelClosedError, NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, RequestStatus, Source
from vllm_ascend_ext.printable import printable

_WAIT_S = 1.0


class FrameSource(Protocol):
    """Reads frames: an `OutputObserver`, or an `OutputReceiver`."""

    def receive(self, timeout_s: float) -> Frame:
        """Returns the next frame."""
        ...


def follow(source: FrameSource) -> Iterator[Frame]:
    """Yields frames until the sender closes; waits for an idle sender. Raises ChannelError when the sender has
    died."""
    while True:
        try:
            yield source.receive(_WAIT_S)
        except NoFrameError:
            continue
        except ChannelClosedError:
            return


@dataclass(slots=True)
class Tail:
    """Prints frames and adds them up.

    Args:
        out: the stream to print to.
        as_json: whether to print a JSON object a frame, and one for the sums.
    """

    out: TextIO
    as_json: bool
    num_frames: int = 0
    acceptance: Acceptance = field(default_factory=Acceptance)

    def show(self, frame: Frame) -> None:
        """Prints one frame: a line a request, or one object."""
        self.num_frames += 1
        rows = _rows(frame)
        self._count(frame)
        if self.as_json:
            head = {"replica": frame.replica, "step": frame.step, "sequence": frame.sequence}
            self._print(json.dumps({**head, "requests": rows}))
            return
        for row in rows:
            tokens = " ".join(map(str, row["token_ids"])) or "-"
            drafts = f"{max(len(row['token_ids']) - 1, 0)}/{row['drafts']}" if row["drafts"] else "-"
            request_id = printable(row["request_id"])
            self._print(
                f"replica {frame.replica} step {frame.step:<6} {request_id:<24} {row['status']:<9} "
                f"drafts {drafts:<5} tokens {tokens}"
            )

    def summary(self, num_missed: int) -> None:
        """Prints the sums. num_missed: frames that were gone before they could be looked at."""
        sums = {
            "frames": self.num_frames,
            "missed": num_missed,
            "tokens": self.acceptance.num_tokens,
            "drafts": self.acceptance.num_drafts,
            "accepted_drafts": self.acceptance.num_accepted,
        }
        if self.as_json:
            self._print(json.dumps(sums))
            return
        rates = ", ".join(f"{rate:.3f}" for rate in self.acceptance.rates) or "no drafts"
        self._print(
            f"{self.num_frames} frames ({num_missed} missed), {self.acceptance.num_tokens} tokens; "
            f"acceptance by position: {rates}"
        )

    def _count(self, frame: Frame) -> None:
        """Counts verified and accepted drafts. A request's last step is left out: frames do not tell of drafts
        that were accepted beyond a request's end."""
        target, draft = frame.section(Source.TARGET), frame.section(Source.DRAFT)
        if target is None:
            return
        num_drafts_B = np.zeros_like(target.num_accepted_B) if draft is None else draft.num_accepted_B
        has_ended_B = target.status_B == RequestStatus.FINISHED
        self.acceptance.add(np.where(has_ended_B, 0, num_drafts_B).tolist(), target.num_accepted_B.tolist())

    def _print(self, line: str) -> None:
        print(line, file=self.out, flush=True)


def _rows(frame: Frame) -> list[dict[str, Any]]:
    target, draft = frame.section(Source.TARGET), frame.section(Source.DRAFT)
    if target is None:
        return []
    num_drafts = [0] * len(target.request_ids) if draft is None else draft.num_accepted_B.tolist()
    return [
        {"request_id": request_id, "status": _status(status), "token_ids": token_ids, "drafts": drafts}
        for request_id, status, token_ids, drafts in zip(
            target.request_ids, target.status_B.tolist(), target.token_ids(), num_drafts, strict=True
        )
    ]


def _status(value: int) -> str:
    """Returns the status in words; a newer sender's as a number."""
    return RequestStatus(value).name.lower() if value in RequestStatus._value2member_map_ else str(value)
