# SPDX-License-Identifier: Apache-2.0
"""What a test finds left on a host is what was started there."""

from __future__ import annotations

import subprocess

import pytest

from tests.hosts.network import TwoHosts

pytestmark = [pytest.mark.distributed]


@pytest.mark.parametrize("hosts", [0.0, 0.001], indirect=True, ids=["cable", "slow cable"])
def test_hosts_begin_empty_and_show_what_runs(hosts: TwoHosts) -> None:
    """The program that is the slow cable is on neither."""
    assert [host.left() for host in hosts.hosts] == [[], []]
    command = [*hosts.second.command, "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sleeper:
        assert sleeper.stdout is not None and sleeper.stdout.readline() == "ready\n"
        hosts.second.shared_memory.joinpath("file").write_text("x")
        try:
            hosts.second.wait_until_nothing_is_left(1, ["file"])
        except AssertionError as error:
            assert "sleep 60" in str(error) and "file" not in str(error)
        else:
            raise AssertionError("it is left")
        finally:
            sleeper.kill()
    hosts.second.wait_until_nothing_is_left(30, ["file"])
