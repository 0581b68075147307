# SPDX-License-Identifier: Apache-2.0
"""Lists what tests have run of `attn_scatter` on vllm-ascend; a part of `rows.py`, which says how."""

from __future__ import annotations

from vllm_ascend_ext.tools.check.verified.row import Values, VerifiedRow, verified_row
from vllm_ascend_ext.tools.check.verified.words import CUT, FC1, FULL, MIXED, SENDS, SERVED, SHARED, SOME, TURNS

_SCATTER = "tests/attn_scatter/vllm_ascend/test_two_ranks.py::"
_SCATTERS = "tests/attn_scatter/vllm_ascend/test_served.py::"
_FLASHCOMM = "tests/attn_scatter/vllm_ascend/test_flashcomm.py::"
_ONE_GATHER = f"{_FLASHCOMM}test_one_gather"
_PREFILL = f"{_FLASHCOMM}test_prefill_for_another_engine"


def _shard(test: str, family: str, *layouts: str, **more: Values) -> VerifiedRow:
    return verified_row(("attn_scatter",), test, family, *layouts, **more)


SCATTER_ROWS: tuple[VerifiedRow, ...] = (
    _shard(f"{_SCATTER}test_deepseek", "MLA", "TP", "TP+EP"),
    _shard(f"{_SCATTER}test_deepseek_with_drafts", "MLA", "TP", drafts=SOME),
    _shard(f"{_SCATTER}test_beside_graphs", "MLA", "TP", graphs=("FULL_DECODE_ONLY", "PIECEWISE")),
    _shard(f"{_SCATTER}test_divided_projections", "GQA", "TP"),
    _shard(f"{_SCATTERS}test_on_an_a2", "MLA", "TP", "TP+EP", weights="w8a8"),
    _shard(f"{_SCATTERS}test_on_an_a2", "sparse MLA", "TP+EP"),
    _shard(f"{_SCATTERS}test_beside_graphs", "MLA", "TP+EP", graphs=FULL, drafts="mtp 3"),
    _shard(f"{_SCATTERS}test_beside_graphs", "GQA", "TP", graphs=FULL, weights="w8a8"),
    _shard(
        f"{_SCATTERS}test_beside_graphs",
        "sparse MLA",
        "DP+TP+EP",
        graphs=FULL,
        weights="w4a8",
        drafts="mtp 3",
    ),
    _shard(f"{_SCATTERS}test_on_sixteen_ranks_of_an_a2", "GQA", "TP+EP", dispatch=TURNS),
    _shard(f"{_SCATTERS}test_on_an_a3", "GQA", "TP+EP", graphs=MIXED, dispatch=CUT),
    _shard(f"{_SCATTERS}test_experts_move_meanwhile", "GQA", "TP+EP", graphs=MIXED),
    _shard(f"{_SCATTERS}test_on_an_a3", "MLA", "TP+EP", "DP+TP+EP", dispatch=CUT),
    _shard(f"{_SCATTERS}test_on_an_a3", "MLA", "TP+EP", "DP+TP+EP", **SERVED),
    _shard(f"{_SCATTERS}test_on_an_a3", "sparse MLA", "TP+EP", **SERVED),
    _shard(_ONE_GATHER, "MLA", "TP+EP", dispatch=CUT, row_split=FC1),
    _shard(_ONE_GATHER, "sparse MLA", "TP+EP", dispatch=CUT, row_split=FC1),
    _shard(_ONE_GATHER, "MLA", "DP+TP+EP", dispatch=CUT, weights="w8a8", drafts="mtp 1", row_split=FC1),
    _shard(_ONE_GATHER, "sparse MLA", "DP+TP+EP", **SERVED, row_split=FC1),
    _shard(_ONE_GATHER, "sparse MLA", "TP+EP", **{**SERVED, "weights": "w4a8"}, row_split=FC1),
    *(
        _shard(
            _PREFILL,
            "MLA",
            "DP+TP+EP",
            dispatch=dispatch,
            weights="w8a8",
            drafts="mtp 1",
            row_split=FC1 + SHARED,
            transfer=SENDS,
        )
        for dispatch in (*CUT, "ALLGATHER")
    ),
    _shard(_PREFILL, "MLA", "TP+EP", weights="w8a8", drafts="mtp 1", transfer=SENDS),
)
