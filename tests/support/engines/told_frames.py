# SPDX-License-Identifier: Apache-2.0
"""Reads the frames of an engine in a test, and tells of each request what they say."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_ascend_ext.mtp_output.errors import ChannelClosedError
from vllm_ascend_ext.mtp_output.frames.frame import Frame, RequestStatus, Source
from vllm_ascend_ext.mtp_output.outlet import replica_endpoint
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver


@dataclass
class Told:
    """Holds what the frames of a replica say of one request. tokens: of the frames, concatenated; counts: of a
    frame's tokens; drafts: that a frame's step has verified."""

    tokens: list[int] = field(default_factory=list)
    statuses: list[RequestStatus] = field(default_factory=list)
    topk: list[tuple[list[int], list[float], int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    drafts: list[list[int]] = field(default_factory=list)

    @property
    def num_drafts(self) -> int:
        return sum(map(len, self.drafts))


def read_frames(frames: Sequence[Frame]) -> dict[str, Told]:
    """Reads frames by the request's name without vLLM's random suffix. Sequences have no gap and no duplicate."""
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    assert [frame.step for frame in frames] == sorted(frame.step for frame in frames)
    told: dict[str, Told] = defaultdict(Told)
    for frame in frames:
        target, draft = frame.section(Source.TARGET), frame.section(Source.DRAFT)
        assert target is not None and (draft is None or draft.request_ids == target.request_ids)
        for row, request_id in enumerate(target.request_ids):
            of_request = told[request_id.rsplit("-", 1)[0]]
            count = int(target.num_accepted_B[row])
            of_request.tokens += target.token_ids_BS[row, :count].tolist()
            of_request.statuses.append(RequestStatus(target.status_B[row]))
            of_request.counts.append(count)
            num_drafts = 0 if draft is None else int(draft.num_accepted_B[row])
            of_request.drafts.append([] if draft is None else draft.token_ids_BS[row, :num_drafts].tolist())
            if target.top_k:
                of_request.topk += [
                    (
                        target.topk_ids_BSK[row, slot].tolist(),
                        target.topk_logprobs_BSK[row, slot].tolist(),
                        int(target.token_ranks_BS[row, slot]),
                    )
                    for slot in range(count)
                ]
    return dict(told)


class FrameReader(threading.Thread):
    """Receives and acknowledges until the sender closes."""

    def __init__(self, instance: int, replica: int, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.frames: list[Frame] = []
        self.error: Exception | None = None
        if endpoint:
            address = replica_endpoint(endpoint, replica)
            self._receiver = OutputReceiver.connect(address, instance, replica, timeout_s=60)
        else:
            self._receiver = OutputReceiver(instance, replica, timeout_s=60)
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.frames.append(self._receiver.receive(120))
        except ChannelClosedError:
            self._receiver.close()
        except Exception as error:
            self.error = error

    def finish(self) -> list[Frame]:
        self.join(60)
        assert self.error is None and not self.is_alive(), self.error
        return self.frames
