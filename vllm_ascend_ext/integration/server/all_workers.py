# SPDX-License-Identifier: Apache-2.0
"""Asks the workers of all replicas that a server serves; vLLM's client passes on the first replica's answers."""

from __future__ import annotations

import asyncio
from typing import Any


async def ask_all_workers(client: Any, method: str) -> list[Any]:
    """Returns the answers of all workers to an RPC without arguments, replica by replica, each by rank.

    An API server with a load balancer before it (`--data-parallel-external-lb`) serves one replica, and has its
    answers only.

    Args:
        client: vLLM's engine client.
        method: name of the worker's method.
    """
    from vllm.v1.engine.core_client import DPLBAsyncMPClient

    core = getattr(client, "engine_core", None)
    if not isinstance(core, DPLBAsyncMPClient):
        return list(await client.collective_rpc(method))
    asked = [
        core._call_utility_async("collective_rpc", method, None, (), None, engine=engine)
        for engine in core.core_engines
    ]
    return [answer for answers in await asyncio.gather(*asked) for answer in answers]
