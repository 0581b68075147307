# SPDX-License-Identifier: Apache-2.0
"""Measures the thread time that features take of a step, for as long as somebody asks.

A feature names the places where it works. While they are measured, a timed function stands in each; before and
afterwards the features' own objects are there and nothing is paid. Thread time leaves out what a thread waits for.
A place inside another takes its time out of the other's, so that the times add up, and what is not a feature's
own work (`THEIRS`: the model's parts, the collectives of its exchanges) can be taken out as well.
"""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

THEIRS = "not ours"
"""Stands for a feature in the report, for what runs inside the places of features and is not their own work."""

Function = Callable[..., Any]
_KEPT_STEPS = 4096
_CALIBRATION_CALLS = 500


class Place(Protocol):
    """Describes a place where a feature works.

    Attributes:
        part: name of the work, the same in places that do the same work.
        is_theirs: whether the work is not the feature's own (`THEIRS`).
    """

    part: str
    is_theirs: bool

    def take(self) -> Function:
        """Returns the function that is there, which `restore` brings back."""
        ...

    def put(self, function: Function) -> None:
        """Puts another function there."""
        ...

    def restore(self) -> None:
        """Puts there again what `take` returned."""
        ...


class Method:
    """Is the place of a method of an object of ours, whose callers look it up in each call."""

    def __init__(self, part: str, owner: object, name: str, *, is_theirs: bool = False) -> None:
        self.part, self.is_theirs = part, is_theirs
        self._owner, self._name = owner, name
        self._own: Function | None = None

    def take(self) -> Function:
        """Returns the method, bound to its object."""
        self._own = vars(self._owner).get(self._name)
        function: Function = getattr(self._owner, self._name)
        return function

    def put(self, function: Function) -> None:
        """Puts another function in the place of the method."""
        setattr(self._owner, self._name, function)

    def restore(self) -> None:
        """Puts the method back: the object's own, or the class's, which then shows again."""
        if self._own is not None:
            self.put(self._own)
        else:
            delattr(self._owner, self._name)


class Handed:
    """Is the place of a function that was handed to somebody who takes another in its stead, by `put`."""

    def __init__(
        self, part: str, function: Function, put: Callable[[Function], Any], *, is_theirs: bool = False
    ) -> None:
        self.part, self.is_theirs = part, is_theirs
        self.put, self._function = put, function

    def take(self) -> Function:
        """Returns the function that was handed over."""
        return self._function

    def restore(self) -> None:
        """Hands the function over again."""
        self.put(self._function)


@dataclass(slots=True)
class _Part:
    calls: int = 0
    thread_ns: float = 0.0
    before_ns: float = 0.0  # at the end of the last step
    steps_ns: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_STEPS))


@dataclass(slots=True)
class _Frame:
    """Holds the thread time of the places inside a place that is being timed."""

    inner_ns: float = 0.0


class StepCost:
    """Times places from its making until `stop`.

    Args:
        places: places of each feature.
        end: place of the function that ends a step, timed as part of the runner.
    """

    def __init__(self, places: Mapping[str, Iterable[Place]], end: Place) -> None:
        self.num_steps = 0
        self._parts: dict[tuple[str, str], _Part] = {}
        self._thread = threading.local()
        self._adding = threading.Lock()  # outputs may be resolved on a thread of their own
        self._clock_ns = self._call_ns = 0.0
        self._calibrate()
        timed = [
            (place, self._timed(place.take(), self._part(THEIRS if place.is_theirs else feature, place.part)))
            for feature, its_places in places.items()
            for place in its_places
        ]
        timed.append((end, self._counted(self._timed(end.take(), self._part("runner", end.part)))))
        for place, function in timed:
            place.put(function)
        self._places: Sequence[Place] = [place for place, _ in timed]

    def stop(self) -> None:
        """Puts everything back as it was. What was measured stays; a second call changes nothing."""
        places, self._places = self._places, ()
        for place in reversed(places):
            place.restore()

    def report(self) -> dict[str, Any]:
        """Returns what was measured so far, as plain JSON-serialisable values.

        "steps": steps that ended. "parts": for each feature and part with calls "calls", "thread_us" of all steps
        together, and "us_per_step": lower quartile, median and upper quartile over the newest 4096 steps. The
        feature `THEIRS` is what ran inside the others' places and is not in their times. Microseconds of thread
        time, less what timing itself took.
        """
        return {
            "steps": self.num_steps,
            "parts": [
                {
                    "feature": feature,
                    "part": name,
                    "calls": part.calls,
                    "thread_us": part.thread_ns / 1e3,
                    "us_per_step": quartiles([ns / 1e3 for ns in part.steps_ns.copy()]),
                }
                for (feature, name), part in self._parts.items()
                if part.calls
            ],
        }

    def steps_us(self) -> list[float]:
        """Returns the microseconds that all features and the runner took of each of the newest 4096 steps."""
        parts = [part.steps_ns.copy() for (feature, _), part in self._parts.items() if feature != THEIRS]
        return [sum(step) / 1e3 for step in zip(*parts, strict=True)]

    def _part(self, feature: str, name: str) -> _Part:
        return self._parts.setdefault((feature, name), _Part())

    def _timed(self, function: Function, part: _Part) -> Function:
        """Returns a function that does the same and adds its thread time to the part."""
        thread, clock = self._thread, time.thread_time_ns

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(thread, "frame", None)
            frame = thread.frame = _Frame()
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = clock() - begin
                thread.frame = outer
                with self._adding:
                    part.calls += 1
                    part.thread_ns += elapsed - frame.inner_ns - self._clock_ns
                if outer is not None:
                    outer.inner_ns += elapsed + self._call_ns

        return timed

    def _counted(self, end: Function) -> Function:
        """Returns a function that ends a step and notes what each part took of it."""

        @functools.wraps(end)
        def ended(*args: Any, **kwargs: Any) -> Any:
            result = end(*args, **kwargs)
            self.num_steps += 1
            with self._adding:
                for part in self._parts.values():
                    part.steps_ns.append(part.thread_ns - part.before_ns)
                    part.before_ns = part.thread_ns
            return result

        return ended

    def _calibrate(self) -> None:
        """Finds out what timing takes itself, inside a timed function's time and around it."""
        part, clock = _Part(), time.thread_time_ns
        nothing = self._timed(lambda: None, part)
        inner, around = [], []
        for _ in range(_CALIBRATION_CALLS):
            before, begin = part.thread_ns, clock()
            nothing()
            whole = clock() - begin
            inner.append(part.thread_ns - before)
            around.append(whole - inner[-1])
        self._clock_ns = statistics.median(inner)
        self._call_ns = max(statistics.median(around) - self._clock_ns, 0.0)  # `whole` has a clock of its own


def quartiles(values: Sequence[float]) -> list[float]:
    """Returns lower quartile, median and upper quartile; of fewer than two values that value or 0 three times."""
    if len(values) < 2:
        return [*values, 0.0][:1] * 3
    return statistics.quantiles(values, n=4, method="inclusive")
