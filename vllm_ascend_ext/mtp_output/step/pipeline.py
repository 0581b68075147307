# SPDX-License-Identifier: Apache-2.0
"""Copies a step's sampled tokens to the host once, then gives them to vLLM's engine and sends them to frame
readers.

Order of a step on the rank that sends: `begin_step` (what the scheduler did) → the model runs → `sampled` (pack
and copy, off the main stream) → the step is *resolved*: wait for the copy, judge, send the frame, make the
engine's output. Synchronous scheduling resolves it in the runner's bookkeeping, asynchronous scheduling when the
engine asks for the output, on whatever thread; steps are resolved one at a time and in order.

The replica's other ranks run `begin_step` alike and copy nothing. Where they need the tokens on the host
(`ReplicaPeers`), they receive the sender's copy.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from vllm_ascend_ext.collectives.collectives import Collectives
from vllm_ascend_ext.mtp_output.step.device_copy import (
    PackedRecords,
    PackedShape,
    RecordCopier,
    SampledTensors,
)
from vllm_ascend_ext.mtp_output.step.launch_bound import LaunchBound
from vllm_ascend_ext.mtp_output.step.request_states import StepEvents
from vllm_ascend_ext.mtp_output.step.sampling_mark import SamplingMark
from vllm_ascend_ext.mtp_output.step.sender import SampledBatch, StepSender
from vllm_ascend_ext.ops.mtp_pack import MtpOutput, mtp_unpack_output


@dataclass(frozen=True, slots=True)
class ReplicaPeers:
    """Describes the ranks of a replica that sample: those of its last stage, and under the launcher of torchrun
    (`external_launcher`), where every rank has an engine of its own, those of all stages.

    collectives: over Gloo; None for a single rank.
    always_share: every step's tokens are needed on the host of every rank: for the next step's input under
        synchronous scheduling, and for each rank's own engine.
    sender: the sender's rank in `collectives`.
    """

    collectives: Collectives | None
    always_share: bool
    sender: int = 0


@dataclass(slots=True)
class StepResult:
    """Describes a step that sampled. `token_ids` (lists of accepted tokens, one for each row of the batch) and
    `target` (what was packed) are on the host once the step is resolved."""

    step: int
    launch: int
    events: StepEvents
    request_ids: tuple[str, ...]
    skipped: tuple[int, ...]
    shape: PackedShape
    records: PackedRecords | None
    is_shared: bool
    sampled_s: float
    is_resolved: bool = False
    target: MtpOutput | None = None
    token_ids: list[list[int]] = field(default_factory=list)


class StepPipeline:
    """Runs the output of one runner, step by step.

    Args:
        copier, sender: the copier and the sender of the rank that sends; None on other ranks.
        launches: the bound of this replica's launches.
        num_buffers: how many steps may be on their way.
        is_async: whether scheduling is asynchronous.
        sampling_mark: on a rank that is sent each step's tokens under synchronous scheduling; else None.
        launches_ahead: under asynchronous scheduling, how many launches may be decided while the outcome of one
            that they continue is not known.
    """

    def __init__(
        self,
        *,
        copier: RecordCopier | None,
        sender: StepSender | None,
        peers: ReplicaPeers,
        launches: LaunchBound,
        num_buffers: int,
        is_async: bool,
        sampling_mark: SamplingMark | None = None,
        launches_ahead: int = 1,
    ) -> None:
        self.copier, self.sender, self.peers = copier, sender, peers
        self.launches = launches
        self.is_async = is_async
        self._launches_ahead = launches_ahead if is_async else 0
        self._sampling_mark = sampling_mark
        self._num_buffers = num_buffers
        self.num_received = 0
        self.step = 0  # that began last
        self._events = StepEvents()
        self._pending: deque[StepResult] = deque()
        self._resolving = threading.RLock()  # taken before the other one
        self._arriving = threading.RLock()
        self._failure: Exception | None = None
        self._ended: deque[tuple[int, list[str]]] = deque()  # launches whose outcome has arrived, on the sender

    def begin_step(self, events: StepEvents) -> None:
        """Takes the scheduler's facts of a step; called on all ranks, before the model runs."""
        if self._failure is not None:
            raise self._failure
        self.step += 1
        self._events = events
        if self.sender is not None:
            self.sender.announce(self.step, events.finished)

    def take_counts(self) -> None:
        """Tells the launch bound what has arrived of earlier launches; called before a launch is announced to it.

        Under asynchronous scheduling the launch that is about to come was decided before the outcome of the last
        ones was known, and may still have requests that these ended.
        """
        newest = self.launches.step - self._launches_ahead
        while self._ended and self._ended[0][0] <= newest:
            launch, ended = self._ended.popleft()
            self.launches.counts_arrived(launch, dict.fromkeys(ended, 0))

    def sampled(
        self,
        shape: PackedShape,
        to_pack: Callable[[], SampledTensors],
        request_ids: Sequence[str],
        skipped: tuple[int, ...],
        *,
        needs_history: bool,
    ) -> StepResult | None:
        """Starts the copy of a step that has sampled; nothing of it is on the host yet, and nobody waits.

        Args:
            shape, to_pack: the shape of what was sampled, and a function that returns it, which only the sender
                calls.
            request_ids: ids of the batch.
            skipped: rows whose tokens do not count.
            needs_history: `history` may be asked for.

        Returns:
            None where nobody will need it on this rank.
        """
        is_shared = self.peers.collectives is not None and self.peers.always_share
        if self.copier is None and not (is_shared or needs_history):
            return None
        if len(self._pending) >= self._num_buffers:  # not by the buffers: ranks that only receive must do alike
            self._resolve_all()
        step = StepResult(
            step=self.step,
            launch=self.launches.step,
            events=self._events,
            request_ids=tuple(request_ids),
            skipped=skipped,
            shape=shape,
            records=None if self.copier is None else self.copier.launch(to_pack()),
            is_shared=is_shared,
            sampled_s=time.monotonic(),
        )
        if self._sampling_mark is not None:
            self._sampling_mark.record()
        if step.records is not None or is_shared:
            self._pending.append(step)
        return step

    def history(self, step: StepResult) -> torch.Tensor:
        """Returns the step's tokens ``[B, S]``, -1 where a draft was rejected, on the host of all ranks of the
        replica.

        The next step's sampling reads them there where a request has penalties. All ranks then call it, on the
        thread that runs the model; see `resolve` for what it raises.
        """
        collectives = self.peers.collectives
        if step.is_shared:
            self.resolve(step)
            assert step.target is not None
            return step.target.token_ids_BS.contiguous()
        with self._fails(step.step):
            if step.records is not None:  # not its frame: peers need not wait for a reader
                token_ids_BS = self._arrive(step).token_ids_BS.contiguous()
            else:
                token_ids_BS = torch.empty(step.shape.num_requests, step.shape.num_slots, dtype=torch.int32)
            if collectives is not None:
                collectives.broadcast_(token_ids_BS, self.peers.sender)
                self.num_received += step.records is None
        return token_ids_BS

    def nothing_sampled(self) -> None:
        """Ends a step without sampling: sends what happened before the step all the same."""
        self._resolve_all()
        if self.sender is not None:
            with self._fails(self.step):
                self.sender.send(self.step, self._events, None)

    def resolve(self, step: StepResult) -> None:
        """Blocks until the step is on the host; on the sender its frame, and those before it, have then been sent.

        Raises:
            DeadlineError: the device did not finish the step in time.
            ChannelError: the reader of the frames did not keep up, or is gone.
            CollectiveError: a rank of the replica is gone.
            OutputMismatchError: see there.
        """
        with self._resolving:
            if step.is_resolved:
                return
            if self._failure is not None:
                raise self._failure
            with self._fails(step.step):
                for earlier in self._pending.copy():  # before any frame: peers need not wait for a reader
                    if earlier.step <= step.step:
                        self._arrive(earlier)
                while not step.is_resolved:
                    self._send_next()

    def close(self) -> None:
        """Ends the frames."""
        if self.sender is not None:
            self.sender.close()

    def _resolve_all(self) -> None:
        with self._resolving:
            while self._pending:
                self.resolve(self._pending[-1])

    def _send_next(self) -> None:
        step = self._pending[0]
        if self.sender is not None and step.records is not None:
            words_N = step.records.words().numpy()
            words = SampledBatch(step.request_ids, step.token_ids, step.shape, words_N, step.sampled_s)
            self._ended.append((step.launch, self.sender.send(step.step, step.events, words)))
            step.records.release()
        step.is_resolved = True
        self._pending.popleft()

    def _arrive(self, step: StepResult) -> MtpOutput:
        """Blocks until the step's tokens are on the host; the step's frame may still have to be sent."""
        with self._arriving:
            if step.target is None:
                # a copy, which the engine may keep for as long as it likes: the buffer goes back with the frame
                words_BW = step.shape.split(self._words(step).numpy())[0].copy()
                step.target = target = mtp_unpack_output(
                    torch.from_numpy(words_BW), step.shape.num_slots, step.shape.top_k
                )
                counts, rows = words_BW[:, 0].tolist(), target.token_ids_BS.tolist()
                step.token_ids = [row[:count] for row, count in zip(rows, counts, strict=True)]
                for row in step.skipped:
                    step.token_ids[row] = []
            return step.target

    @contextlib.contextmanager
    def _fails(self, step: int) -> Iterator[None]:
        """Remembers what ends the block early, a signal included, so that all later calls raise it: a step is
        judged once."""
        try:
            yield
        except BaseException as error:
            if self._failure is None:
                self._failure = error if isinstance(error, Exception) else _interrupted(step, error)
            raise

    def _words(self, step: StepResult) -> torch.Tensor:
        """Returns the step's buffer; on the ranks that received it, without drafts."""
        collectives = self.peers.collectives
        if step.records is not None:
            words_N = step.records.words()
            if step.is_shared and collectives is not None:
                collectives.broadcast_(words_N[: step.shape.target_words], self.peers.sender)
            return words_N
        assert collectives is not None
        words_N = torch.empty(step.shape.words, dtype=torch.int32)
        collectives.broadcast_(words_N[: step.shape.target_words], self.peers.sender)
        if self._sampling_mark is not None:
            self._sampling_mark.wait()
        self.num_received += 1
        if step.shape.num_draft_slots:
            words_N[step.shape.target_words :].view(step.shape.num_requests, -1)[:, 0] = 0
        return words_N


def _interrupted(step: int, cause: BaseException) -> RuntimeError:
    error = RuntimeError(
        f"the output of step {step} was interrupted by {type(cause).__name__}: its frame may have been sent or "
        "not, so no other can follow; start the engine again"
    )
    error.__cause__ = cause
    return error
