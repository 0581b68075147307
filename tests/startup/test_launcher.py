# SPDX-License-Identifier: Apache-2.0
"""The launcher of several API servers: its last line names those that have ended, and how."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from vllm_ascend_ext.integration.errors import EngineDiedError

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]


def _end(signum: int, status: int) -> None:
    if signum:
        os.kill(os.getpid(), signum)
    sys.exit(status)


def _servers(signum: int, status: int) -> list[multiprocessing.process.BaseProcess]:
    """One that waits, and one that ends."""
    context = multiprocessing.get_context("fork")
    servers = [
        context.Process(target=time.sleep, args=(600,), name="ApiServer_0"),
        context.Process(target=_end, args=(signum, status), name="ApiServer_1"),
    ]
    for server in servers:
        server.start()
    return servers


@pytest.mark.parametrize(
    ("signum", "status", "how"),
    [(signal.SIGKILL, 0, "by SIGKILL"), (0, 1, "with status 1")],
    ids=["killed", "failed"],
)
def test_the_line_names_the_server_that_ended(signum: int, status: int, how: str) -> None:
    from vllm.v1.utils import wait_for_completion_or_failure

    from vllm_ascend_ext.integration.server.launcher import _naming_the_ended

    servers = _servers(signum, status)
    try:
        with pytest.raises(EngineDiedError) as error:
            _naming_the_ended(wait_for_completion_or_failure)(SimpleNamespace(processes=servers))
    finally:
        servers[0].kill()
    expected = (
        f"this server has stopped: ApiServer_1 (PID {servers[1].pid}) has ended {how}; the log above says more"
    )
    assert str(error.value) == expected


def test_of_an_engine_core_vllms_own_words_stand() -> None:
    from vllm_ascend_ext.integration.server.launcher import _naming_the_ended

    def wait(api_server_manager: object) -> None:
        raise RuntimeError("Engine core process EngineCore_DP1 died unexpectedly.")

    with pytest.raises(EngineDiedError, match="stopped: Engine core process EngineCore_DP1 died unexpectedly"):
        _naming_the_ended(wait)(SimpleNamespace(processes=[]))
