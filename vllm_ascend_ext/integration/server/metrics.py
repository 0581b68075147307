# SPDX-License-Identifier: Apache-2.0
"""Which values of ours the /metrics of a server shows."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.eplb_load.metrics import ExpertLoadMetrics
from vllm_ascend_ext.integration.mtp_output.metrics import OutputMetrics


def serve(app: Any) -> None:
    """Show the values of the features that are on, on the /metrics of a server that is about to start.

    Of several API servers of one engine, the first shows them.
    """
    client = getattr(app.state, "engine_client", None)
    if client is None:
        return
    config = ExtConfig.from_additional_config(client.vllm_config.additional_config)
    if config is None or getattr(client.engine_core, "client_index", 0) != 0:
        return
    for is_on, metrics in (
        (config.eplb_load.enabled, ExpertLoadMetrics),
        (config.mtp_output.enabled, OutputMetrics),
    ):
        if is_on:
            # vLLM has had the stack built by now, so add_middleware refuses
            stack = app.middleware_stack or app.build_middleware_stack()
            app.middleware_stack = metrics(stack, client)
