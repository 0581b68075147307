# SPDX-License-Identifier: Apache-2.0
"""A race of upstream's that is known hides no other, whichever process has reported both."""

from __future__ import annotations

from tests.support.engines.upstream_races import UpstreamRace, others

KNOWN = UpstreamRace((r"in known_writer", r"in known_reader"), "a planted one")
RACE = "[emulator] race {0} in process 7: one does not wait for another\n  at a.py:1 in {1}\n  at a.py:2 in {2}\n"


def reports_of(*parties: tuple[str, str]) -> str:
    """Returns what a child process with these races has written, as one text."""
    races = (RACE.format(number, *pair) for number, pair in enumerate(parties, 1))
    return "process 7:\n" + "".join(races).strip()


def test_a_known_race_of_a_child_hides_no_other() -> None:
    child = reports_of(("known_writer", "known_reader"), ("other_writer", "other_reader"))
    (found,) = others([child], [KNOWN])
    assert "other_writer" in found and "known_writer" not in found


def test_halves_of_two_races_are_no_known_one() -> None:
    child = reports_of(("known_writer", "other_reader"), ("other_writer", "known_reader"))
    assert len(others([child], [KNOWN])) == 2


def test_races_of_this_process_have_no_first_line() -> None:
    own = [
        "aclnnMul ...\n  at a.py:1 in known_writer\n  at a.py:2 in known_reader",
        "aclnnMul ...\n  at a.py:9 in f",
    ]
    assert others(own, [KNOWN]) == own[1:]
