# SPDX-License-Identifier: Apache-2.0
"""Lists what tests have run of features on vllm-ascend, in small on the emulator: a row a test.

Such a test compares tokens with transformers' and what the feature counts or sends with an independent count. A
row names for each dimension of `DeploymentClass` the values that its test runs; a test that runs several values of
two dimensions runs each with each, or has a row for each. What follows from the rows: `proof.py`.

To add a row: name the test as pytest does, without what is in brackets, and every value that it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vllm_ascend_ext.integration.upstream.versions import PAIR_0_30, Pair
from vllm_ascend_ext.tools.check.verified.row import Values, VerifiedRow
from vllm_ascend_ext.tools.check.verified.row import verified_row as _row
from vllm_ascend_ext.tools.check.verified.scatter_rows import SCATTER_ROWS
from vllm_ascend_ext.tools.check.verified.words import CUT, FC1, FULL, MIXED, SENDS, SERVED, SHARED, SOME, TURNS

_LOAD = ("eplb_load",)
_BOTH = ("eplb_load", "mtp_output")
_A2 = "tests/eplb_load/test_vllm_ascend.py::"
_DISPATCH = "tests/eplb_load/vllm_ascend/test_dispatch.py::test_gathered_rows_count_once"
_A3 = "tests/eplb_load/vllm_ascend/test_a3.py::test_cut_rows_count_once"
_GRAPHS = "tests/engine/test_vllm_ascend_graphs.py::test_tokens_and_load_equal_transformers"
_GRAPHS_OF_STAGES = "tests/engine/test_vllm_ascend_graphs.py::test_load_of_a_pipeline"
_QUANTISED = "tests/engine/test_vllm_ascend_quantised.py::test_tokens_and_load_equal_integer_reference"
_QUANTISED_CUT = "tests/engine/test_vllm_ascend_quantised.py::test_quantised_rows_travel_on_an_a3"
_QUANTISED_GRAPHS = "tests/engine/test_vllm_ascend_quantised.py::test_quantised_layers_in_graphs"
_SERVICE = "tests/engine/test_vllm_ascend_service.py::"
_PAIRS = "tests/engine/test_vllm_ascend_pairs.py::test_pairs_of_what_is_served"
_PUBLISHED = "tests/engine/published/test_published.py::test_load_and_frames_are_exact"
_SPARSE = "tests/engine/sparse/test_vllm_ascend_sparse.py::test_with_both_features"
_COMPRESSED = "tests/engine/compressed/test_vllm_ascend_compressed.py::"
_COMPRESSES = f"{_COMPRESSED}test_with_both_features"
_COMPRESSED_MOVE = f"{_COMPRESSED}test_between_two_engines"
_LINEAR = "tests/eplb_load/vllm_ascend/test_qwen3_next.py::test_in_graphs_on_an_a3"
_TRANSFER = "tests/engine/transfer/test_vllm_ascend.py::"
_TWO_ENGINES = f"{_TRANSFER}test_each_row_counts_where_it_is_computed"
_STAGES = f"{_TRANSFER}test_a_pipeline_prefills"
_SIXTEEN = "tests/engine/test_vllm_ascend_sixteen.py::test_load_by_mc2"
_OUTPUT = "tests/mtp_output/test_vllm_ascend.py::"
_FRAMES = "tests/mtp_output/test_vllm_ascend_served.py::test_frames_are_the_engines_tokens"
_PIPELINES = "tests/mtp_output/test_vllm_ascend_served.py::test_frames_of_a_pipeline"
_SMALL = ("MC2",)
_FEW = ("none", "mtp 1")
_TAKES = ("consumer",)
_APART = "DP+TP+EP+DCP"  # ranks of TP with keys of their own


def _served(
    test: str, family: str, weights: Values, drafts: Values, layout: str = "DP+TP+EP", **more: Values
) -> VerifiedRow:
    """Returns a row of both features on an A3, in graphs unless it says otherwise."""
    return _row(
        _BOTH,
        test,
        family,
        layout,
        **{"graphs": FULL, "dispatch": CUT, "weights": weights, "drafts": drafts} | more,
    )


# what some engine with `mtp_output` has run of the dimensions that do not meet in it (`proof.MEET`)
_RAN: Mapping[str, tuple[str, ...]] = {
    "family": ("GQA", "MLA"),
    "graphs": ("eager", "PIECEWISE", "FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"),
    "dispatch": ("ALLGATHER", "MC2, ALLTOALL"),
    "weights": ("unquantised", "w8a8"),
    "row_split": ("none", "FlashComm v1"),
}


def _output(test: str, *layouts: str, drafts: Values = "none", transfer: Values = "none") -> VerifiedRow:
    row = _row(("mtp_output",), test, "", *layouts, drafts=drafts, transfer=transfer)
    return replace(row, values={**row.values, **_RAN})


def _later(features: tuple[str, ...], test: str, family: str, *layouts: str, **more: Values) -> VerifiedRow:
    """Returns a row of vllm-ascend 0.30."""
    return replace(_row(features, test, family, *layouts, **more), pair=PAIR_0_30)


def _later_served(
    test: str, family: str, weights: Values, drafts: Values, layout: str, **more: Values
) -> VerifiedRow:
    """Returns a row of vllm-ascend 0.30 as `_served` does."""
    return replace(_served(test, family, weights, drafts, layout, **more), pair=PAIR_0_30)


def _in_both(*rows: VerifiedRow) -> tuple[VerifiedRow, ...]:
    """Returns rows of what both pairs have run."""
    return (*rows, *(replace(row, pair=PAIR_0_30) for row in rows))


ROWS: tuple[VerifiedRow, ...] = (
    _row(_LOAD, f"{_A2}test_load_equals_transformers_routing", "GQA", "TP", "TP+EP"),
    _row(_LOAD, f"{_A2}test_mtp_counts_every_scheduled_row", "MLA", "TP+EP", drafts="mtp 2"),
    _row(_LOAD, _DISPATCH, "GQA", "TP+EP", row_split="FlashComm v1"),
    _row(_LOAD, _DISPATCH, "GQA", "DP+EP", "PP"),
    _row(_LOAD, _DISPATCH, "MLA", "DP+EP", drafts="mtp 1"),
    _row(_LOAD, _DISPATCH, "MLA", "TP+EP+DCP"),
    _row(_LOAD, _A3, "GQA", "TP+EP", dispatch=("MC2, ALLTOALL", "FUSED_MC2")),
    _row(_LOAD, _A3, "MLA", "TP+EP", dispatch=CUT, row_split="FlashComm v1", drafts="mtp 1"),
    _row(_LOAD, _A3, "MLA", "DP+EP", dispatch=CUT, graphs=FULL, drafts="mtp 1"),
    _row(_LOAD, _A3, "MLA", "DP+TP+EP", dispatch=CUT, drafts="mtp 2"),
    _row(_LOAD, _GRAPHS, "GQA", "TP+EP", graphs=("PIECEWISE", "FULL_AND_PIECEWISE")),
    _row(_LOAD, _GRAPHS, "GQA", "1", "DP+EP", graphs=FULL),
    _row(_LOAD, _GRAPHS, "MLA", "TP+EP", "DP+EP", graphs="PIECEWISE", drafts="mtp 2"),
    _row(_LOAD, _GRAPHS, "MLA", "1", graphs=FULL, drafts="mtp 2"),
    _row(
        _LOAD,
        "tests/engine/test_vllm_ascend_graphs.py::test_load_on_an_a3",
        "GQA",
        "TP+EP",
        graphs=FULL,
        dispatch=CUT,
    ),
    _row(_LOAD, _GRAPHS_OF_STAGES, "GQA", "TP+EP+PP", graphs=MIXED),
    _row(_LOAD, _QUANTISED, "GQA", "TP", "TP+EP", weights="w8a8"),
    _row(_LOAD, _QUANTISED_CUT, "GQA", "TP+EP", dispatch=CUT, weights="w8a8"),
    _row(_LOAD, _QUANTISED_GRAPHS, "GQA", "TP+EP", graphs=FULL, weights="w8a8"),
    _row(_LOAD, f"{_SERVICE}test_on_an_a2", "MLA", "TP+EP", weights="w8a8", drafts=_FEW),
    _row(_LOAD, f"{_SERVICE}test_on_an_a3", "MLA", "TP+EP", dispatch=CUT, weights="w8a8", drafts=_FEW),
    _row(_LOAD, f"{_SERVICE}test_on_an_a3", "MLA", "TP+EP", "DP+TP+EP", **SERVED),
    _row(_BOTH, f"{_SERVICE}test_everything_at_once", "MLA", "DP+TP+EP", **SERVED),
    _row(_BOTH, _PAIRS, "MLA", "DP+TP+EP", **SERVED, row_split=FC1),
    _row(_BOTH, _PAIRS, "MLA", "DP+TP+EP", graphs=FULL, weights="w8a8", drafts="mtp 3", row_split=FC1),
    _row(_BOTH, _PAIRS, "MLA", "DP+TP+EP", graphs=FULL, dispatch=CUT, weights="w8a8", drafts="mtp 5"),
    _row(_BOTH, _PAIRS, "MLA", "DP+TP+EP", dispatch=CUT, weights="w8a8", drafts="mtp 1", row_split=FC1),
    _row(_BOTH, _PAIRS, "MLA", "DP+EP", graphs=MIXED, dispatch=CUT, weights="w8a8"),
    _row(_BOTH, _PAIRS, "MLA", "DP+EP", graphs=FULL, dispatch=CUT, drafts="mtp 3"),
    _row(_BOTH, _PAIRS, "MLA", "TP+EP", graphs=FULL, dispatch=CUT, weights="w8a8", drafts="mtp 2"),
    _row(_BOTH, _PAIRS, "GQA", "DP+TP+EP", graphs=MIXED, dispatch=CUT, weights="w8a8", row_split=FC1),
    _row(_BOTH, _PAIRS, "GQA", "DP+TP+EP", graphs=FULL),
    _row(_BOTH, _PAIRS, "MLA", "1", graphs=MIXED, weights="w8a8", drafts="mtp 1"),
    _row(_BOTH, _PAIRS, "MLA", "1", drafts="mtp 3"),
    _row(_BOTH, _PAIRS, "GQA", "1"),
    _row(_BOTH, _PAIRS, "GQA", "TP", graphs=MIXED),
    _row(_BOTH, _PAIRS, "GQA", "TP", graphs=FULL),
    _row(_BOTH, _SIXTEEN, "GQA", "DP+TP+EP", dispatch=TURNS),
    _row(_BOTH, _SIXTEEN, "GQA", "TP+EP", graphs=MIXED, dispatch=TURNS),
    _row(_BOTH, _SIXTEEN, "GQA", "DP+TP+EP", graphs=FULL, dispatch=TURNS, weights="w8a8", row_split=FC1),
    _served(_PUBLISHED, "GQA", "w8a8", "eagle3 3", row_split=FC1),
    _served(_PUBLISHED, "GQA", "w8a8", "eagle3 1", graphs="eager", row_split=FC1, transfer=SENDS),
    _served(_PUBLISHED, "GQA", "w8a8", "eagle3 3", dispatch=_SMALL, transfer=_TAKES),
    _served(_PUBLISHED, "MLA", "w8a8", "mtp 3", row_split=SHARED),
    _served(_PUBLISHED, "GQA", "w8a8", "mtp 1", graphs="eager", row_split=SHARED, transfer=SENDS),
    _served(_PUBLISHED, "GQA", "w8a8", "mtp 3", dispatch=_SMALL, row_split=SHARED, transfer=_TAKES),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 3", row_split=FC1),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 1", graphs="eager", row_split=FC1, transfer=SENDS),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 3", dispatch=_SMALL, transfer=_TAKES),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 1", "DP+EP", graphs="eager", transfer=SENDS),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 3", "DP+EP", transfer=_TAKES),
    *_in_both(
        _served(_PUBLISHED, "sparse MLA", "w4a8", "mtp 1", graphs="eager", row_split=FC1, transfer=SENDS),
        _served(_PUBLISHED, "sparse MLA", "w4a8", "mtp 3", dispatch=_SMALL, transfer=_TAKES),
    ),
    _served(_PUBLISHED, "sparse MLA", "w4a8", "mtp 1", graphs="eager", dispatch="ALLGATHER", transfer=SENDS),
    _served(_PUBLISHED, "sparse MLA", "w4a8", "mtp 5", dispatch="ALLGATHER", transfer=_TAKES),
    _served(_PUBLISHED, "GQA", "w4a8", "none", "TP", dispatch="ALLGATHER"),
    _served(_PUBLISHED, "sparse MLA", "w8a8", "mtp 1", graphs="eager", transfer=SENDS),
    _served(_PUBLISHED, "sparse MLA", "w8a8", "mtp 2", transfer=_TAKES),
    _served(_PUBLISHED, "GQA", "w4a8", "eagle3 3", "TP+EP", row_split=FC1),
    _served(_PUBLISHED, "GQA", "w4a8", "none", "TP+EP"),
    _served(_PUBLISHED, "GQA", "w4a8", "eagle3 3", "1", dispatch="ALLGATHER"),
    _served(_PUBLISHED, "GQA", "w8a8", "none", graphs="eager", row_split=FC1, transfer=SENDS),
    _served(_PUBLISHED, "GQA", "w8a8", "none", transfer=_TAKES),
    _served(
        _PUBLISHED,
        "MLA",
        "w4a8",
        "eagle3 1",
        graphs="eager",
        dispatch="ALLGATHER",
        row_split=FC1,
        transfer=SENDS,
    ),
    _served(_PUBLISHED, "MLA", "w4a8", "eagle3 3", dispatch="ALLGATHER", transfer=_TAKES),
    *_in_both(
        _served(_PUBLISHED, "MLA", "w8a8", "mtp 3", dispatch="ALLGATHER", row_split=SHARED),
        _served(_PUBLISHED, "GQA", "w8a8", "eagle3 3", dispatch="FUSED_MC2", row_split=FC1),
    ),
    _served(_PUBLISHED, "GQA", "w8a8", "none", dispatch="ALLGATHER", row_split=FC1, transfer=_TAKES),
    _served(_PUBLISHED, "sparse MLA", "w8a8", "mtp 1", _APART, graphs="eager", row_split=FC1, transfer=SENDS),
    _served(_PUBLISHED, "sparse MLA", "w8a8", "mtp 5", _APART, transfer=_TAKES),
    _row(_BOTH, _SPARSE, "sparse MLA", "TP+EP"),
    _row(_BOTH, _SPARSE, "sparse MLA", "TP+EP", graphs=FULL, drafts="mtp 1"),
    _served(_SPARSE, "sparse MLA", "w8a8", "mtp 3", row_split=FC1),
    _served(_SPARSE, "sparse MLA", "w8a8", "mtp 1", graphs="eager", row_split=FC1),
    _served(_SPARSE, "sparse MLA", "unquantised", "mtp 3", row_split=FC1),
    _served(_SPARSE, "sparse MLA", "w8a8", "mtp 3", _APART, row_split=FC1),
    _row(_BOTH, _SPARSE, "sparse MLA", _APART, drafts="mtp 1"),
    _row(_BOTH, _COMPRESSES, "DeepSeek-V4", "TP+EP"),
    _row(_BOTH, _COMPRESSES, "DeepSeek-V4", "TP+EP", graphs=FULL, drafts="mtp 1", row_split=FC1),
    _row(_BOTH, _COMPRESSES, "DeepSeek-V4", "DP+EP", graphs=FULL, drafts="mtp 1"),
    _served(_COMPRESSES, "DeepSeek-V4", "unquantised", "mtp 3", row_split=FC1),
    _served(_COMPRESSES, "DeepSeek-V4", "w8a8", "mtp 1", row_split=FC1),
    _served(_COMPRESSES, "DeepSeek-V4", "w4a8", "mtp 1", row_split=SHARED),
    _served(_COMPRESSED_MOVE, "DeepSeek-V4", "w8a8", "mtp 1", graphs="eager", row_split=SHARED, transfer=SENDS),
    _served(_COMPRESSED_MOVE, "DeepSeek-V4", "w8a8", "mtp 3", row_split=SHARED, transfer=_TAKES),
    _row(_BOTH, _LINEAR, "linear attention", "TP", graphs=FULL),
    _row(_BOTH, _LINEAR, "linear attention", "TP+EP", graphs=FULL, dispatch=CUT, drafts=("none", "mtp 3")),
    _served(_LINEAR, "linear attention", "unquantised", "mtp 3"),
    _served(_LINEAR, "linear attention", "w8a8", "none", row_split=FC1),
    _row(_BOTH, _TWO_ENGINES, "MLA", "TP+EP", drafts="mtp 1", transfer=SENDS),
    _row(_BOTH, _TWO_ENGINES, "MLA", "TP+EP", graphs=FULL, drafts="mtp 1", transfer=_TAKES),
    _row(_BOTH, _TWO_ENGINES, "MLA", "1", transfer="both"),
    _row(_BOTH, _TWO_ENGINES, "MLA", "1", drafts="mtp 1", transfer=SENDS),
    _row(_BOTH, _TWO_ENGINES, "MLA", "1", drafts="mtp 3", transfer=_TAKES),
    *_in_both(
        _row(_BOTH, _TWO_ENGINES, "MLA", "1", weights="w8a8", drafts="mtp 1", transfer=SENDS),
        _row(_BOTH, _TWO_ENGINES, "MLA", "1", graphs=MIXED, weights="w8a8", drafts="mtp 1", transfer=_TAKES),
    ),
    _served(_TWO_ENGINES, "MLA", "w8a8", "mtp 1", "DP+EP", graphs="eager", transfer=SENDS),
    _served(_TWO_ENGINES, "MLA", "w8a8", "mtp 1", "DP+EP", dispatch=_SMALL, transfer=_TAKES),
    _row(_BOTH, _TWO_ENGINES, "GQA", "DP+TP+EP", graphs=MIXED, weights="w8a8", transfer=SENDS),
    _row(_BOTH, _TWO_ENGINES, "GQA", "DP+TP+EP", graphs=FULL, weights="w8a8", transfer=_TAKES),
    _served(_STAGES, "MLA", "w8a8", SOME, "TP+EP+PP", graphs="eager", row_split=FC1, transfer=SENDS),
    _served(_STAGES, "sparse MLA", "w8a8", "mtp 1", "TP+EP+PP", graphs="eager", row_split=FC1, transfer=SENDS),
    _row(
        ("dp_gather",),
        "tests/dp_gather/test_vllm_ascend.py::test_modes_give_transformers_tokens",
        "MLA",
        "DP+EP",
        drafts="mtp 1",
    ),
    *SCATTER_ROWS,
    _output(_FRAMES, "1", "TP+EP", transfer=("none", "producer", "consumer", "both")),
    _output(_FRAMES, "1", "TP+EP", drafts=("mtp 1", "eagle3 3"), transfer=("none", "producer", "consumer")),
    _output(f"{_OUTPUT}test_frames_are_the_engines_tokens", "TP+EP", drafts="mtp 2"),
    _output(_FRAMES, "TP", "TP+EP+DCP", "PP"),
    _output(_FRAMES, "TP+EP", drafts="mtp 2", transfer=("producer", "consumer")),
    _output(_FRAMES, "DP+EP", drafts="eagle3 3", transfer=("producer", "consumer")),
    _output(_FRAMES, "DP+TP+EP", drafts=("none", "mtp 3")),
    _output(_PIPELINES, "PP", "TP+EP+PP"),
    _output(_PIPELINES, "TP+EP+PP", drafts="mtp 3", transfer="producer"),
    _later(_LOAD, f"{_A2}test_load_equals_transformers_routing", "GQA", "TP", "TP+EP"),
    _later(_LOAD, f"{_A2}test_mtp_counts_every_scheduled_row", "MLA", "TP+EP", drafts="mtp 2"),
    _later(_LOAD, _DISPATCH, "GQA", "DP+EP"),
    _later(_LOAD, _GRAPHS, "GQA", "TP+EP", graphs="PIECEWISE"),
    _later(_LOAD, _GRAPHS, "GQA", "1", graphs=FULL),
    _later_served(_PAIRS, "MLA", "w8a8", "mtp 2", "TP+EP"),
    _later_served(_PAIRS, "MLA", "w8a8", "none", "DP+EP", graphs=MIXED),
    _later_served(_PAIRS, "MLA", "w8a8", "mtp 3", "DP+TP+EP", row_split=FC1),
    _later_served(_PAIRS, "GQA", "unquantised", "none", "DP+TP+EP", dispatch="ALLGATHER"),
    _later_served(_SIXTEEN, "GQA", "unquantised", "none", "TP+EP", graphs=MIXED, dispatch=TURNS),
    _later(("mtp_output",), f"{_OUTPUT}test_frames_are_the_engines_tokens", "MLA", "TP+EP", drafts="mtp 2"),
)


def rows_of(pair: Pair) -> tuple[VerifiedRow, ...]:
    """Returns the rows of a pair, in the table's order."""
    return tuple(row for row in ROWS if row.pair == pair)
