# SPDX-License-Identifier: Apache-2.0
"""Frames of a real engine with MTP: per request they are the engine's own tokens, on every layout, sync and async.

The cache is small, so that requests are preempted and come back; one is aborted; others end at a stop token, at
their length, have log-probabilities or penalties (whose next step reads the tokens on the host of every rank).
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from tests.support.engines.told_frames import Told
from tests.support.host_build import build_host
from tests.support.long_tables import long_table
from tests.support.reference import make_prompts
from tests.support.saved_output import SavedRun, assert_frames_are_the_tokens, next_instance, run_saved
from vllm_ascend_ext.mtp_output.frames.frame import RequestStatus
from vllm_ascend_ext.mtp_output.ring import backend
from vllm_ascend_ext.mtp_output.ring.folder import ring_path
from vllm_ascend_ext.tools.engine import EngineCase, run_engine
from vllm_ascend_ext.tools.forked_ranks import Layout, RankError

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

NUM_TOKENS = 40
LOGPROBS, PENALTY, STOPS = 1, 2, 4  # prompts with something of their own
ABORTED, NEVER_RUN = 0, 9  # while it runs, and while it waits for its turn
ABORTS = {ABORTED: 6, NEVER_RUN: 2}  # after so many steps
# 14 blocks of 16 tokens: four requests of up to 130 tokens do not fit
ENGINE = {
    "max_num_batched_tokens": 64,
    "max_num_seqs": 4,
    "max_model_len": 192,
    "block_size": 16,
    "num_gpu_blocks_override": 14,
    "enable_prefix_caching": False,
}
CASES = {  # layout, k, asynchronous scheduling
    "TP2 k2 async": (Layout(tp=2), 2, True),
    "TP1 k1 async": (Layout(), 1, True),
    "TP1 k3 sync": (Layout(), 3, False),
    "TP2 k1 sync": (Layout(tp=2), 1, False),
    "DP2 k2 sync": (Layout(dp=2), 2, False),
    "DP2 k3 async": (Layout(dp=2), 3, True),
    "DP2xTP2 k2 sync": (Layout(tp=2, dp=2), 2, False),
    "DP2xTP2 k3 async": (Layout(tp=2, dp=2), 3, True),
}
QUICK = "TP2 k2 async"
OVER_ZMQ = "DP2 k2 sync"  # the others' frames go through shared memory
IN_PYTHON = ("TP1 k1 async", "DP2xTP2 k2 sync")  # the others' channels are in C++


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody uses."""
    for port in range(20000 + os.getpid() % 10000, 32000, count):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for offset in range(count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port
    raise AssertionError("no free ports")


def case_of(model: str, name: str, instance: int | None) -> EngineCase:
    layout, num_speculative_tokens, is_async = CASES[name]
    output = {"enabled": True, "instance": instance, "deadline_s": 60.0, "top_k": 2}
    if name == OVER_ZMQ:
        output |= {"transport": "zmq", "endpoint": f"tcp://127.0.0.1:{free_ports(layout.dp)}"}
    return EngineCase(
        model,
        layout,
        expert_parallel=layout.num_ranks > 1,
        num_speculative_tokens=num_speculative_tokens,
        ascend_ext=None if instance is None else {"mtp_output": output},
        engine_args=ENGINE | {"async_scheduling": is_async},
    )


@pytest.fixture(scope="module")
def prompts(tiny_model: str) -> list[list[int]]:
    return make_prompts(tiny_model)[:10]


def options(stop: int | None) -> list[dict[str, object]]:
    sampling: list[dict[str, object]] = [{"max_tokens": NUM_TOKENS - i} for i in range(10)]
    sampling[LOGPROBS]["logprobs"] = 3
    sampling[PENALTY]["repetition_penalty"] = 1.3
    if stop is not None:
        sampling[STOPS]["stop_token_ids"] = [stop]
    return sampling


@pytest.fixture(scope="module")
def plain(tiny_model: str, prompts: list[list[int]], vllm_preloaded: None) -> SavedRun:
    """One rank, the feature off, nobody stopped or aborted: every other run has prefixes of these tokens."""
    (run,) = run_saved(case_of(tiny_model, "TP1 k3 sync", None), prompts, options(None), deadline_s=180)
    assert sum(len(set(tokens)) for tokens in run.outputs.values()) > 80  # not degenerate
    return run


def stop_of(plain: SavedRun) -> tuple[int, list[int]]:
    """A token that ends the request in its middle, and what is then left of it."""
    tokens = plain.outputs[str(STOPS)]
    stop = tokens[NUM_TOKENS // 2]
    return stop, tokens[: tokens.index(stop) + 1]


@long_table
def test_a_replica_without_requests_sends_nothing(tiny_model: str, prompts: list[list[int]]) -> None:
    """It goes along in the steps of the other one to the end, also of those that only tell who has ended."""
    case = case_of(tiny_model, "DP2 k3 async", next_instance())
    sampling = [{"max_tokens": NUM_TOKENS}] * 2
    runs = run_saved(case, prompts[:2], sampling, deadline_s=300, split=(2, 0))
    assert_frames_are_the_tokens(runs)
    assert [run.num_frames > 0 for run in runs] == [True, False]


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=long_table) for name in CASES]
)
def test_frames_are_the_engines_tokens(
    tiny_model: str,
    prompts: list[list[int]],
    plain: SavedRun,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = tmp_path if name in IN_PYTHON else build_host("ascend_ext_channel")
    monkeypatch.setattr(backend, "FOLDER", folder)  # ranks are forks of this process
    assert backend.installed_backend().name == ("python" if name in IN_PYTHON else "native")
    stop, stopped = stop_of(plain)
    runs = run_saved(
        case_of(tiny_model, name, next_instance()),
        prompts,
        options(stop),
        deadline_s=300,
        aborts=ABORTS,
        reset_at=8,
    )
    expected = plain.outputs | {str(STOPS): stopped}
    seen: set[str] = set()
    num_copies = 0  # of the sender before; ranks come replica by replica
    for run in runs:
        output = run.report["mtp_output"]
        if run.tp_rank:  # copies nothing, and receives each of the sender's copies for its own engine
            assert output["copies"] is None and output["received"] == num_copies > 0
            continue
        num_copies = output["copies"]
        check_replica(run, expected)
        seen |= set(run.told)
    assert seen == set(expected) - {str(NEVER_RUN)}
    senders = [run for run in runs if not run.tp_rank]
    assert sum(run.num_preempted for run in senders) > 0
    statuses = {status for run in senders for told in run.told.values() for status in told.statuses}
    assert statuses == set(RequestStatus)


def check_replica(run: SavedRun, expected: dict[str, list[int]]) -> None:
    """No token more, less or twice; each request has one end, and its statuses in an order that makes sense."""
    report = run.report["mtp_output"]
    assert report["frames"] == run.num_frames > 0
    assert not run.outputs.get(str(NEVER_RUN))
    for name, tokens in run.outputs.items():
        if name == str(NEVER_RUN):
            continue
        told = run.told[name]
        assert told.tokens == tokens, name
        if name == str(ABORTED):
            assert tokens == expected[name][: len(tokens)] and len(tokens) < len(expected[name])
        else:
            assert tokens == expected[name], name
        check_statuses(told)
    assert report["drafts"][0] > report["accepted_drafts"][0] > 0
    # without the steps that asynchronous scheduling launched for requests which had ended
    drafts_of_vllm = run.metrics["vllm:spec_decode_num_draft_tokens"]
    assert sum(report["drafts"]) == sum(told.num_drafts for told in run.told.values()) == drafts_of_vllm
    assert sum(report["accepted_drafts"]) == run.metrics["vllm:spec_decode_num_accepted_tokens"]
    if str(LOGPROBS) in run.told:
        check_logprobs(run.told[str(LOGPROBS)], run.logprobs[str(LOGPROBS)])


def check_statuses(told: Told) -> None:
    assert told.statuses[-1] == RequestStatus.FINISHED and told.statuses.count(RequestStatus.FINISHED) == 1
    place = None
    for status in told.statuses:
        if place == RequestStatus.PREEMPTED:  # comes back, or ends while it waits
            assert status in (RequestStatus.RECOVERED, RequestStatus.FINISHED)
        else:
            assert status != RequestStatus.RECOVERED
        place = status


def check_logprobs(told: Told, engine: list[dict[int, float]]) -> None:
    """The sampled token's first, then `top_k` = 2 of the 3 that the engine was asked for."""
    assert len(told.topk) == len(told.tokens) == len(engine)
    for token, (ids, logprobs, rank), entry in zip(told.tokens, told.topk, engine, strict=True):
        assert ids[0] == token and rank >= 1 and len(ids) == 3
        assert [entry[i] for i in ids] == pytest.approx(logprobs, abs=0)


@pytest.mark.parametrize(
    ("is_async", "executor"),
    [
        pytest.param(False, "external_launcher", marks=pytest.mark.slow),
        pytest.param(True, "external_launcher", marks=long_table),
        (True, "mp"),
    ],
)
def test_without_a_reader_the_engine_stops_and_says_so(
    tiny_model: str, prompts: list[list[int]], is_async: bool, executor: str
) -> None:
    """With `mp`, on a thread of the worker whose exceptions nobody sees: the engine must not wait for it."""
    instance = next_instance()
    output = {"enabled": True, "instance": instance, "frames": 2, "deadline_s": 1.0}
    case = EngineCase(
        tiny_model,
        num_speculative_tokens=2,
        ascend_ext={"mtp_output": output},
        engine_args=ENGINE | {"async_scheduling": is_async, "distributed_executor_backend": executor},
    )
    try:
        with pytest.raises(RankError) as error:
            run_engine(case, prompts[:2], max_tokens=NUM_TOKENS, deadline_s=120)
    finally:
        ring_path(instance, 0).unlink(missing_ok=True)  # stays for a reader that comes late
    message = str(error.value).splitlines()[0]  # the engine's own error; the rank's log follows
    assert "is full for 1 s: its reader, " in message, error.value


def test_a_channel_built_for_another_python_is_refused(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ascend_ext_channel.cpython-39-x86_64-linux-gnu.so").touch()
    monkeypatch.setattr(backend, "FOLDER", tmp_path)
    with pytest.raises(RankError, match="of another Python or version: reinstall with VLLM_ASCEND_EXT"):
        run_engine(case_of(tiny_model, "TP1 k3 sync", next_instance()), [[1]], max_tokens=1, deadline_s=120)
