# SPDX-License-Identifier: Apache-2.0
"""Gives two hosts, and what one host's engine answers and counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.network import NoHostsError, TwoHosts, two_hosts


@pytest.fixture
def hosts(request: pytest.FixtureRequest) -> Iterator[TwoHosts]:
    """Makes two hosts; skips where this machine lets nobody make network namespaces.

    Its parameter is the delay of their cable in seconds.
    """
    try:
        network = two_hosts(getattr(request, "param", 0.0))
        pair = network.__enter__()
    except (NoHostsError, OSError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield pair
    finally:
        network.__exit__(None, None, None)
