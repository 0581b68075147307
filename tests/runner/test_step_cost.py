# SPDX-License-Identifier: Apache-2.0
"""The counter of a step's cost: which part took the time, in how many steps, and that it leaves nothing behind."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from vllm_ascend_ext.runner.mixin import ExtModelRunner
from vllm_ascend_ext.runner.step import StepFacts
from vllm_ascend_ext.runner.step_cost import THEIRS, Handed, Method, StepCost

SLOW_NS = 2_000_000


class Clock:
    """Is a clock of thread time that only planted work moves: no other program's load is in what it says."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


CLOCK = Clock()


@pytest.fixture
def planted_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "thread_time_ns", CLOCK)


def work(thread_ns: int) -> None:
    CLOCK.now_ns += thread_ns


class Model:
    """Runs a step as vLLM's runner does, with a layer that hands on what it routes."""

    def __init__(self) -> None:
        self.capture: Any = None

    def execute_model(self, scheduler_output: Any) -> None:
        self._model_forward([0, 0])  # type: ignore[attr-defined]

    def sample_tokens(self) -> None:
        pass

    def _model_forward(self, rows: list[int]) -> None:
        if self.capture is not None:
            self.capture(rows)


class Base(Model):
    def _model_forward(self, rows: list[int]) -> None:
        super()._model_forward(rows)


class Runner(ExtModelRunner, Base):
    pass


class Scheduled:
    total_num_scheduled_tokens = 2
    num_scheduled_tokens = {"a": 1, "b": 1}


class Observer:
    """Takes a planted time in one of its calls."""

    def __init__(self, slow: str = "") -> None:
        self.slow, self.steps = slow, 0

    def begin_forward(self, facts: StepFacts) -> None:
        self._work("begin_forward")

    def end_step(self) -> None:
        self.steps += 1
        self._work("end_step")

    def _work(self, name: str) -> None:
        if name == self.slow:
            work(SLOW_NS)


CALLS = ("begin_forward", "end_step")


def step(runner: Runner, times: int = 1) -> None:
    for _ in range(times):
        runner.execute_model(Scheduled())
        runner.sample_tokens()


def parts_of(cost: StepCost) -> dict[tuple[str, str], dict[str, Any]]:
    return {(part["feature"], part["part"]): part for part in cost.report()["parts"]}


def observed(*observers: Observer) -> tuple[Runner, dict[str, list[Method]]]:
    runner = Runner()
    for observer in observers:
        runner.add_observer(observer)  # type: ignore[arg-type]
    return runner, {
        f"feature {i}": [Method(call, observer, call) for call in CALLS] for i, observer in enumerate(observers)
    }


@pytest.mark.usefixtures("planted_clock")
@pytest.mark.parametrize("slow", CALLS)
def test_a_planted_slow_observer_is_seen_with_its_time_and_its_name(slow: str) -> None:
    runner, places = observed(Observer(), Observer(slow))
    cost = runner.measure_cost(places)
    step(runner, 5)
    parts = parts_of(cost)
    planted = parts.pop(("feature 1", slow))
    assert planted["us_per_step"][1] == SLOW_NS / 1e3
    assert planted["thread_us"] == 5 * SLOW_NS / 1e3
    assert all(part["us_per_step"][1] == part["thread_us"] == 0 for part in parts.values())
    assert sum(cost.steps_us()) == 5 * SLOW_NS / 1e3


def test_counts_equal_steps() -> None:
    runner, places = observed(Observer())
    step(runner, 3)  # not measured
    cost = runner.measure_cost(places)
    step(runner, 7)
    report = cost.report()
    assert report["steps"] == 7
    assert {part["part"]: part["calls"] for part in report["parts"]} == dict.fromkeys(
        ("begin step", "end step", *CALLS), 7
    )
    cost.stop()
    step(runner, 2)
    assert cost.report() == report
    assert runner.measure_cost(places).report() == {"steps": 0, "parts": []}


def test_off_leaves_the_plain_objects() -> None:
    observer, other = Observer(), Observer()
    runner, places = observed(observer, other)
    routed: list[Any] = []
    put, count = [], routed.append
    runner.capture = count
    hook = Handed("routing", count, lambda function: setattr(runner, "capture", function))
    other.end_step = put.clear  # type: ignore[method-assign]  # a method of the object's own comes back, too
    before = [dict(vars(thing)) for thing in (runner, observer, other)]
    places |= {"feature 1": [Method("end_step", other, "end_step"), hook]}  # type: ignore[list-item]
    cost = runner.measure_cost(places)
    assert runner.step_observers == (observer, other) and "begin_forward" in vars(observer)
    assert runner.capture is not count and vars(other)["end_step"] != before[2]["end_step"]
    step(runner)
    cost.stop()
    cost.stop()
    kept = {"step_cost", "_step", "_in_step", "_num_scheduled_tokens", "_num_requests"}
    now = [{k: v for k, v in vars(thing).items() if k not in kept} for thing in (runner, observer, other)]
    before[1]["steps"] = 1
    assert now == before and runner.capture is count
    assert routed == [[0, 0]]


@pytest.mark.usefixtures("planted_clock")
def test_a_new_measurement_ends_the_one_before() -> None:
    observer = Observer("end_step")
    runner, places = observed(observer)
    first = runner.measure_cost(places)
    step(runner)
    second = runner.measure_cost({"feature 0": [Method(call, observer, call) for call in CALLS]})
    step(runner)
    second.stop()
    assert vars(observer).keys() == {"slow", "steps"}
    assert first.report()["steps"] == second.report()["steps"] == 1
    assert parts_of(second)["feature 0", "end_step"]["thread_us"] == SLOW_NS / 1e3


class Exchange:
    """Has a part of somebody else inside its own work, as an exchange has the backend's collective."""

    def __init__(self) -> None:
        self.on_thread = False

    def gather(self) -> None:
        work(SLOW_NS)
        self.collective()
        self.collective()

    def collective(self) -> None:
        work(SLOW_NS // 2)
        time.sleep(0.002)  # a wait is no thread time

    def end(self) -> None:
        pass


@pytest.mark.usefixtures("planted_clock")
@pytest.mark.parametrize("on_thread", [False, True])
def test_what_is_inside_is_taken_out_and_a_wait_does_not_count(on_thread: bool) -> None:
    exchange = Exchange()
    places = [Method("gather", exchange, "gather"), Method("collective", exchange, "collective", is_theirs=True)]
    cost = StepCost({"dp_gather": places}, Method("end step", exchange, "end"))
    if on_thread:
        thread = threading.Thread(target=exchange.gather)
        thread.start()
        thread.join()
    else:
        exchange.gather()
    exchange.end()
    parts = parts_of(cost)
    assert parts["dp_gather", "gather"]["thread_us"] == SLOW_NS / 1e3
    assert parts[THEIRS, "collective"]["thread_us"] == SLOW_NS / 1e3
    assert cost.steps_us() == [SLOW_NS / 1e3]


class Ticking(Clock):
    """Is a clock whose every look takes thread time itself, the only time that passes."""

    def __call__(self) -> int:
        self.now_ns += TICK_NS
        return self.now_ns


TICK_NS = 700


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside another"])
def test_timing_itself_is_taken_out(inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "thread_time_ns", Ticking())
    exchange = Exchange()
    exchange.collective = lambda: None  # type: ignore[method-assign]
    exchange.gather = lambda: [exchange.collective() for _ in range(3)]  # type: ignore[method-assign,assign]
    places = [Method(part, exchange, part) for part in ("collective", "gather")]
    cost = StepCost({"f": places}, Method("end step", exchange, "end"))
    for _ in range(20):
        exchange.gather() if inside else exchange.collective()
    exchange.end()
    parts = parts_of(cost)
    assert parts["f", "collective"]["calls"] == (60 if inside else 20)
    assert {part["thread_us"] for part in parts.values()} == {0.0}


def test_an_error_passes_and_is_counted() -> None:
    exchange = Exchange()

    def fail() -> None:
        raise KeyError("planted")

    exchange.collective = fail  # type: ignore[method-assign]
    cost = StepCost({"f": [Method("part", exchange, "collective")]}, Method("end step", exchange, "end"))
    with pytest.raises(KeyError, match="planted"):
        exchange.collective()
    cost.stop()
    assert exchange.collective is fail and parts_of(cost)["f", "part"]["calls"] == 1
