# SPDX-License-Identifier: Apache-2.0
"""Describes what one source, the target or the draft model, accepted in one step.

Shapes: B = requests, S = token slots a request (1 + speculative tokens), K = top-k, W = words of a record.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_ascend_ext.mtp_record import record_starts, record_words

MAX_SLOTS = 255
"""Counts of accepted tokens are bytes in a frame."""

Int32Array = NDArray[np.int32]
FloatArray = NDArray[np.float32]


class RequestStatus(IntEnum):
    """Names what became of a request in the step."""

    RUNNING = 0
    FINISHED = 1
    PREEMPTED = 2
    RECOVERED = 3
    SKIPPED = 4


class Source(IntEnum):
    """Names the model that the tokens of a section come from."""

    TARGET = 1
    DRAFT = 2


class Section(NamedTuple):
    """Holds the rows of one source: the records that `mtp_pack_output` writes, and whose they are.

    The arrays are views of `packed_BW`. Beyond ``num_accepted_B[b]`` slots, tokens, top-k ids and ranks are -1 and
    log-probabilities NaN.
    """

    source: Source
    request_ids: tuple[str, ...]
    packed_BW: Int32Array
    num_slots: int
    top_k: int

    @classmethod
    def from_packed(
        cls,
        request_ids: tuple[str, ...],
        packed_BW: Int32Array,
        num_slots: int,
        top_k: int,
        source: Source = Source.TARGET,
    ) -> Section:
        """Wraps the records of a host copy, without copying them.

        Args:
            packed_BW: ``[B, W]`` int32, rows contiguous, B = ``len(request_ids)``.
            num_slots, top_k: S and K of the packed tensors; K = 0 without top-k.

        Raises:
            ValueError: another shape, dtype or layout than these make, or more than `MAX_SLOTS` slots.
        """
        words, shape = record_words(num_slots, top_k), packed_BW.shape
        if not 1 <= num_slots <= MAX_SLOTS:
            raise ValueError(f"a section has 1 to {MAX_SLOTS} token slots a request, not {num_slots}")
        if shape != (len(request_ids), words) or packed_BW.dtype != np.int32:
            raise ValueError(
                f"{len(request_ids)} requests of {num_slots} slots and top-k {top_k} make an int32 buffer "
                f"[{len(request_ids)}, {words}], not {packed_BW.dtype} {list(shape)}"
            )
        if not packed_BW.flags.c_contiguous:
            raise ValueError(f"records lie one after the other, not with strides {packed_BW.strides}")
        return cls(source, request_ids, packed_BW, num_slots, top_k)

    @classmethod
    def from_arrays(
        cls,
        source: Source,
        request_ids: tuple[str, ...],
        num_accepted_B: Int32Array,
        status_B: Int32Array,
        token_ids_BS: Int32Array,
        topk_ids_BSK: Int32Array | None = None,
        topk_logprobs_BSK: FloatArray | None = None,
        token_ranks_BS: Int32Array | None = None,
    ) -> Section:
        """Packs arrays on the host, for who has no packed buffer.

        Raises:
            ValueError: shapes that do not fit each other, or counts outside 0 to S.
        """
        batch, num_slots = token_ids_BS.shape
        top_k = 0 if topk_ids_BSK is None else topk_ids_BSK.shape[2]
        packed_BW = np.full((batch, record_words(num_slots, top_k)), -1, np.int32)
        section = cls.from_packed(request_ids, packed_BW, num_slots, top_k, source)
        if np.any((num_accepted_B < 0) | (num_accepted_B > num_slots)):
            raise ValueError(f"counts of accepted tokens are 0 to {num_slots}, not {num_accepted_B.tolist()}")
        section.num_accepted_B[:] = num_accepted_B
        section.status_B[:] = status_B
        is_accepted_BS = np.arange(num_slots) < np.asarray(num_accepted_B)[:, None]
        values = [token_ids_BS]
        if topk_ids_BSK is not None:
            if topk_logprobs_BSK is None or token_ranks_BS is None:
                raise ValueError("a section takes top-k ids, log-probabilities and ranks together or none of them")
            logprobs_BSK = np.ascontiguousarray(topk_logprobs_BSK, np.float32).view(np.int32)
            values += [topk_ids_BSK, logprobs_BSK, token_ranks_BS]
        for view, value in zip(section.parts(), values, strict=True):
            if view.shape != value.shape:
                raise ValueError(f"arrays of {batch} requests and {num_slots} slots: {view.shape}, {value.shape}")
            view[is_accepted_BS] = value[is_accepted_BS]
        return section

    def parts(self) -> list[Int32Array]:
        """Returns tokens ``[B, S]``; with top-k also ids and bits of the log-probabilities ``[B, S, K]`` and
        ranks."""
        slots, top_k = self.num_slots, self.top_k
        starts = record_starts(slots, top_k)
        tokens = self.packed_BW[:, starts[0] : starts[0] + slots]
        if not top_k:
            return [tokens]
        ids, logprobs = (
            self.packed_BW[:, start : start + slots * top_k].reshape(len(self.request_ids), slots, top_k)
            for start in starts[1:3]
        )
        return [tokens, ids, logprobs, self.packed_BW[:, starts[3] : starts[3] + slots]]

    @property
    def num_accepted_B(self) -> Int32Array:
        return self.packed_BW[:, 0]

    @property
    def status_B(self) -> Int32Array:
        """Returns values of `RequestStatus`, or of a newer sender's."""
        return self.packed_BW[:, 1]

    @property
    def token_ids_BS(self) -> Int32Array:
        return self.parts()[0]

    @property
    def topk_ids_BSK(self) -> Int32Array | None:
        return self.parts()[1] if self.top_k else None

    @property
    def topk_logprobs_BSK(self) -> FloatArray | None:
        return self.parts()[2].view(np.float32) if self.top_k else None

    @property
    def token_ranks_BS(self) -> Int32Array | None:
        return self.parts()[3] if self.top_k else None

    def token_ids(self) -> list[list[int]]:
        """Returns the accepted tokens of each request."""
        counts = self.num_accepted_B.tolist()
        return [row[:count] for row, count in zip(self.token_ids_BS.tolist(), counts, strict=True)]
