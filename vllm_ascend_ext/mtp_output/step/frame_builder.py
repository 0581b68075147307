# SPDX-License-Identifier: Apache-2.0
"""Builds the sections of a frame from the host copy of a step and the judgement of it; in the common case as
views.

Shapes: R = rows of the frame, B = requests of the step's batch, N = words of its buffer, W = words of a record.
"""

from __future__ import annotations

import numpy as np
import xxhash

from vllm_ascend_ext.mtp_output.frames.section import Int32Array, Section, Source
from vllm_ascend_ext.mtp_output.step.device_copy import PackedShape
from vllm_ascend_ext.mtp_output.step.request_states import NO_ROW, StepRows
from vllm_ascend_ext.mtp_record import record_words

MAX_ID_CHARACTERS = 64  # of up to 4 bytes: what `RingSize.for_engine` has room for
_KEPT_CHARACTERS = 40


def sections_of_step(
    rows: StepRows, shape: PackedShape | None, words_N: Int32Array | None, top_k: int
) -> tuple[Section, Section | None]:
    """Returns the target and the draft section; the latter only when drafts were verified.

    Args:
        shape, words_N: the step's buffer, whose counts and statuses are overwritten; None when nothing was
            sampled.
        top_k: log-probabilities that are kept at most, beside the sampled token's own, which comes first; 0: none.
    """
    request_ids = tuple(map(frame_id, rows.request_ids))
    if shape is None or words_N is None:
        return Section.from_packed(request_ids, _records(rows, None, record_words(1, 0)), 1, 0), None
    target_BW, draft_BW = shape.split(words_N)
    target_RW = _records(rows, target_BW, target_BW.shape[1])
    target = Section.from_packed(request_ids, target_RW, shape.num_slots, shape.top_k)
    target.num_accepted_B[:] = rows.num_accepted
    target = _narrowed(target, top_k + 1 if top_k else 0)
    if draft_BW is None:
        return target, None
    draft_RW = _records(rows, draft_BW, draft_BW.shape[1])
    return target, Section.from_packed(request_ids, draft_RW, shape.num_draft_slots, 0, Source.DRAFT)


def frame_id(request_id: str) -> str:
    """Returns a request's id in frames: the engine's own, unless it is longer than a ring has room for.

    Clients choose most of the engine's ids, and no client may end an engine by a long one.
    """
    if len(request_id) <= MAX_ID_CHARACTERS:
        return request_id
    return f"{request_id[:_KEPT_CHARACTERS]}~{xxhash.xxh3_64_hexdigest(request_id.encode())}"


def _narrowed(section: Section, num_columns: int) -> Section:
    """Drops the log-probabilities after the first `num_columns`."""
    if section.top_k <= num_columns:
        return section
    ids_BSK, logprobs_BSK = section.topk_ids_BSK, section.topk_logprobs_BSK
    assert ids_BSK is not None and logprobs_BSK is not None
    narrow = ids_BSK[..., :num_columns], logprobs_BSK[..., :num_columns], section.token_ranks_BS
    return Section.from_arrays(
        section.source,
        section.request_ids,
        section.num_accepted_B,
        section.status_B,
        section.token_ids_BS,
        *(narrow if num_columns else ()),
    )


def _records(rows: StepRows, packed_BW: Int32Array | None, num_words: int) -> Int32Array:
    """Returns the record ``[R, W]`` of each row with its status: `packed_BW` itself when the rows are its rows."""
    if packed_BW is not None and rows.sampled == list(range(len(packed_BW))):
        packed_RW = packed_BW
    else:
        packed_RW = np.full((len(rows.request_ids), num_words), -1, np.int32)
        packed_RW[:, 0] = 0
        if packed_BW is not None:
            sampled_R = np.array(rows.sampled, dtype=np.int64)
            packed_RW[sampled_R != NO_ROW] = packed_BW[sampled_R[sampled_R != NO_ROW]]
    packed_RW[:, 1] = rows.status
    return packed_RW
