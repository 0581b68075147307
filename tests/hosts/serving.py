# SPDX-License-Identifier: Apache-2.0
"""Serves on two hosts by vLLM's own launch; compares tokens, frames, loads and metrics with one host, and cuts."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import sub
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.hosts.network import Host, TwoHosts
from tests.support.engines.expert_load import summed_load
from tests.support.reference import make_prompts
from tests.support.saved_output import next_instance
from tests.support.server import MODEL_NAME, Server
from tests.support.told_frames import FrameReader, Told, read_frames
from vllm_ascend_ext.mtp_output.errors import WriterGoneError
from vllm_ascend_ext.mtp_output.ring.folder import ring_path
from vllm_ascend_ext.tools.engine import EngineCase, run_engine

NUM_TOKENS, LONG = 24, 400
DEADLINE_S, GROUP_S = 10.0, 30  # of our own groups, and of vLLM's
DRAFTS = 2
_NEAR_TIES = 0.0, 0.02  # of the target's and of the drafts' rows
PORT = 5600  # of replica 0's frames
_START_S, _ANSWER_S = 400.0, 200.0  # bounds, not measurements
_END_S = 60.0  # after the deadline: vLLM gives the others of a launch time to end
_OURS = "vllm:ascend_ext_"
_MTP = {"method": "mtp", "num_speculative_tokens": DRAFTS}


class Serving:
    """Holds the servers of one engine on two hosts.

    launch: arguments of the head. of_second: further ones of the second host; None where something else starts
    workers there. replicas: the host of each replica's first rank, which sends its frames. environment: of the
    servers, added to their own.
    """

    def __init__(
        self,
        hosts: TwoHosts,
        model: str,
        folder: Path,
        features: Sequence[str],
        launch: Sequence[str],
        of_second: Sequence[str] | None,
        replicas: Sequence[Host],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._environment = environment
        self.hosts, self.model, self.replicas, self.instance = hosts, model, replicas, next_instance()
        # the same for both hosts: each replica listens on its own host
        frames = {"instance": self.instance, "transport": "zmq", "endpoint": f"tcp://*:{PORT}"}
        settings: dict[str, dict[str, Any]] = {
            "eplb_load": {"interval": 2, "deadline_s": DEADLINE_S},
            "dp_gather": {"deadline_s": DEADLINE_S},
            "attn_scatter": {"min_tokens": 1},
            "mtp_output": {"deadline_s": DEADLINE_S, **frames},
        }
        sections = {name: {"enabled": True, **settings[name]} for name in features}
        self._arguments = (
            *(*launch, "--enable-expert-parallel", "--dtype", "float32", "--no-async-scheduling"),
            *("--cpu-distributed-timeout-seconds", str(GROUP_S)),
            *("--speculative-config", json.dumps(_MTP)),
            *("--additional-config", json.dumps({"ascend_ext": sections})),
        )
        self.head = self._start(hosts.head, (), folder)
        self.servers = [self.head]
        if of_second is not None:
            self.servers.append(self._start(hosts.second, (*of_second, "--headless"), folder))

    def _start(self, host: Host, more: Sequence[str], folder: Path) -> Server:
        (folder / host.name).mkdir()
        return Server(
            Path(self.model),
            (*self._arguments, *more),
            folder / host.name,
            {"VLLM_HOST_IP": host.address, **self._environment},
            address=host.address,
            entering=host.command,
            inside=host.inside,
        )

    def readers(self, host: Host) -> list[FrameReader]:
        """Starts a reader on `host` of the frames of all replicas, wherever they are."""
        with host.inside():
            return [
                FrameReader(self.instance, replica, f"tcp://{sender.address}:{PORT}")
                for replica, sender in enumerate(self.replicas)
            ]

    def wait_until_nothing_is_left(self, reader: Host | None = None) -> None:
        """Waits until both hosts are as they were at first.

        reader: whose readers a cut has taken from replicas of the other host, whose rings keep unread frames.
        """
        for host in self.hosts.hosts:
            kept = [
                ring_path(self.instance, replica).name
                for replica, sender in enumerate(self.replicas)
                if reader is not None and sender is host and host is not reader
            ]
            host.wait_until_nothing_is_left(60, kept)

    def complete(self, prompts: Sequence[list[int]], num_tokens: int) -> list[list[int]]:
        """Completes all prompts at once, replica by replica in turn; the i-th request is named i."""

        def one(index: int) -> list[int]:
            body = {"model": MODEL_NAME, "prompt": prompts[index], "max_tokens": num_tokens, "temperature": 0}
            headers = {"X-Request-Id": str(index)}
            if len(self.replicas) > 1:
                headers["X-data-parallel-rank"] = str(index % len(self.replicas))
            options = {"ignore_eos": True, "return_token_ids": True}
            status, text = self.head.ask("POST", "/v1/completions", body | options, headers, timeout_s=_ANSWER_S)
            assert status == 200, text
            tokens: list[int] = json.loads(text)["choices"][0]["token_ids"]
            return tokens

        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(one, range(len(prompts))))

    def reports(self) -> list[dict[str, Any]]:
        """Returns the reports of all ranks, from the head."""
        status, text = self.head.get("/ascend_ext/report", timeout_s=60)
        assert status == 200, text
        reports: list[dict[str, Any]] = json.loads(text)
        return reports

    def metrics(self) -> dict[str, float]:
        """Returns what /metrics of the head shows of ours, with its labels."""
        status, text = self.head.get("/metrics", timeout_s=60)
        assert status == 200
        rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith(_OURS)]
        return {name: float(value) for name, _, value in rows}

    def output(self) -> str:
        """Returns the ends of both logs, for a failure."""
        return "\n".join(f"== {server.address}\n{server.output()[-4000:]}" for server in self.servers)


@contextlib.contextmanager
def serving(*args: Any) -> Iterator[Serving]:
    """Serves until the block ends; arguments as of `Serving`."""
    served = Serving(*args)
    try:
        served.head.wait_until_healthy(_START_S)
        yield served
    except BaseException:
        print(served.output())
        raise
    finally:
        for server in served.servers:
            server.stop()


@dataclass(frozen=True)
class OneHost:
    """Holds what an engine of one process completes and counts.

    tokens: of each prompt. loads: of the target and of its drafts, by layer and expert, with their rows.
    """

    tokens: list[list[int]]
    loads: list[tuple[list[list[int]], int]]


def complete_on_one_host(model: str, prompts: list[list[int]]) -> OneHost:
    """Runs an engine of one process, to compare with. To be called before threads are started, as it forks."""
    case = EngineCase(
        model,
        num_speculative_tokens=DRAFTS,
        ascend_ext={"eplb_load": {"enabled": True}},
        engine_args={"async_scheduling": False, "enable_prefix_caching": False},
    )
    result = run_engine(case, prompts, max_tokens=NUM_TOKENS, deadline_s=300)
    tokens = [list(row) for row in result.token_ids]
    return OneHost(tokens, [summed_load(result, model) for model in (0, 1)])


def assert_equals(
    served: Serving, prompts: list[list[int]], expected: OneHost, readers: Sequence[FrameReader]
) -> None:
    """Tokens, frames, loads and metrics are those of an engine of one process."""
    tokens = served.complete(prompts, NUM_TOKENS)
    assert tokens == expected.tokens
    time.sleep(1.1)  # younger values are shown once more
    assert_loads(served.reports(), expected)
    for replica, reader in enumerate(readers):
        told = told_by(reader, [name for name in range(len(prompts)) if name % len(readers) == replica])
        assert {int(name.removeprefix("cmpl-").split("-")[0]): row.tokens for name, row in told.items()} == {
            index: row for index, row in enumerate(tokens) if index % len(readers) == replica
        }
    num_frames = sum(len(reader.frames) for reader in readers)
    name, end = f'{_OURS}mtp_output_frames_total{{model_name="{MODEL_NAME}"}}', time.monotonic() + 30
    while (shown := served.metrics().get(name)) != num_frames:  # a scrape waits for half a second at most
        assert time.monotonic() < end, (shown, num_frames)
        time.sleep(1.1)


@contextlib.contextmanager
def equal_to_one_host(
    model: str, reader: Host, serve: Callable[[], AbstractContextManager[Serving]]
) -> Iterator[tuple[Serving, list[list[int]], list[FrameReader]]]:
    """Serves, finds everything to be as of an engine of one process, and gives the engine, what it was asked, and
    its readers on host `reader`."""
    prompts = make_prompts(model)[:6]
    expected = complete_on_one_host(model, prompts)
    with serve() as served:
        readers = served.readers(reader)
        assert_equals(served, prompts, expected, readers)
        yield served, prompts, readers


def told_by(reader: FrameReader, names: Sequence[int]) -> dict[str, Told]:
    """Waits until a reader has been told of the ends of so many requests."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        told = read_frames(list(reader.frames))
        if len(told) == len(names) and all(row.statuses[-1].name == "FINISHED" for row in told.values()):
            return told
        time.sleep(0.1)
    raise AssertionError(f"{reader.error}: {told}")


def assert_loads(reports: list[dict[str, Any]], one_host: OneHost) -> None:
    """All ranks of both hosts have answered, and their counts add up to those of one host: of the target by
    expert, and of its drafts as many, of which 1 in 50 at most goes elsewhere: near ties, by how sums round.
    """
    assert len(reports) == 2
    assert sum(report["eplb_load"]["has_handovers"] for report in reports) == 1
    first = reports[0]["eplb_load"]
    assert first["collection"]["num_handovers"] >= 2
    for model, (expected_LE, num_tokens) in enumerate(one_host.loads):
        parts = [report["eplb_load"]["load"][model] for report in reports]
        assert sum(part["num_tokens"] for part in parts) == num_tokens
        for layer, expected_E in enumerate(expected_LE):
            load_E = [sum(counts) for counts in zip(*(part["load_LE"][layer] for part in parts), strict=True)]
            num_elsewhere = sum(map(abs, map(sub, load_E, expected_E))) // 2
            print(f"model {model}, layer {layer}: {num_elsewhere} of {sum(load_E)} routed elsewhere")
            assert sum(load_E) == sum(expected_E)
            assert num_elsewhere <= _NEAR_TIES[model] * sum(load_E)
    # most went through the sum over both hosts
    assert first["load"][0]["num_tokens"] > one_host.loads[0][1] / 2


def assert_a_cut_is_named(
    served: Serving,
    prompts: list[list[int]],
    readers: Sequence[FrameReader],
    named: str = r"(?s)CollectiveError.*world ranks \[1\] are silent",
) -> None:
    """At work, both hosts end with an error that names the ranks of the other, and readers are told.

    named: pattern of what the head's output has.
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            served.complete(prompts, LONG)

    client = threading.Thread(target=work, daemon=True)
    counts = [len(reader.frames) for reader in readers]
    client.start()
    end = time.monotonic() + _ANSWER_S
    while any(len(reader.frames) < count + 5 for reader, count in zip(readers, counts, strict=True)):
        assert time.monotonic() < end and client.is_alive()
        time.sleep(0.1)
    served.hosts.cut()
    begin = time.monotonic()
    statuses = [server.wait_until_ended(GROUP_S + _END_S) for server in served.servers]
    print(f"ended {time.monotonic() - begin:.1f} s after the cut: {statuses}")
    assert statuses == [1] * len(statuses)
    first, *others = [server.output() for server in served.servers]
    assert re.search(named, first)
    for output in others:
        assert "CollectiveError" in output and "failed on world rank 1 of [0, 1]" in output
    for reader in readers:
        reader.join(60)
    assert any(isinstance(reader.error, WriterGoneError) for reader in readers)
