# SPDX-License-Identifier: Apache-2.0
"""Sums the expert load that an engine's ranks report, and holds it to what the schedulers scheduled."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.saved_output import SavedRun
from vllm_ascend_ext.tools.engine import EngineResult


def summed_load(result: EngineResult, model: int) -> tuple[list[list[int]], int]:
    """(load [L][E], tokens) over all ranks of the target (0) or the draft (1) model."""
    parts = [rank.report["eplb_load"]["load"][model] for rank in result.ranks if rank.report is not None]
    layers: dict[str, list[list[int]]] = {}  # the stages of a pipeline have layers of their own
    tokens = dict.fromkeys((name for part in parts for name in part["layers"]), 0)
    for part in parts:
        for name, load_E in zip(part["layers"], part["load_LE"], strict=True):
            layers.setdefault(name, []).append(load_E)
            tokens[name] += part["num_tokens"]
    assert len(set(tokens.values())) == 1
    return [[sum(values) for values in zip(*rows, strict=True)] for rows in layers.values()], max(tokens.values())


def assert_every_row_counts(runs: Sequence[SavedRun], result: EngineResult, top_k: int) -> None:
    """Each row that a scheduler has scheduled is routed once a layer to `top_k` experts, and in each of the
    drafter's passes after the first a row a request.

    With async scheduling rows of requests that have ended before the host knew it are among them.
    """
    replicas = [run for run in runs if run.tp_rank == 0]
    load_LE, num_target = summed_load(result, 0)
    assert num_target == sum(run.num_rows for run in replicas)
    assert [sum(load_E) for load_E in load_LE] == [top_k * num_target] * len(load_LE)
    drafts = result.case.num_speculative_tokens
    if drafts:
        draft_LE, num_draft = summed_load(result, 1)
        later = (drafts - 1) * sum(run.num_rows_of_requests for run in replicas)
        assert num_draft == num_target + later
        assert [sum(load_E) for load_E in draft_LE] == [top_k * num_draft]
