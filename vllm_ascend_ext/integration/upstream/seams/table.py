# SPDX-License-Identifier: Apache-2.0
"""Lists all seams: what to go through when a vLLM version is added (`vllm-ascend-ext doctor --seams`)."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.rows import (
    ascend_dispatch,
    ascend_layers,
    ascend_runner,
    attn_scatter,
    cpu_layers,
    cpu_platform,
    dp_gather,
    eplb_load,
    eplb_routers,
    mtp_output,
    row_counts,
    runner,
    server,
    startup,
)
from vllm_ascend_ext.integration.upstream.seams.seam import Seam

SEAMS: tuple[Seam, ...] = (
    *startup.ROWS,
    *server.ROWS,
    *runner.ROWS,
    *ascend_runner.ROWS,
    *eplb_load.ROWS,
    *eplb_routers.ROWS,
    *dp_gather.ROWS,
    *ascend_dispatch.ROWS,
    *row_counts.ROWS,
    *attn_scatter.ROWS,
    *ascend_layers.ROWS,
    *mtp_output.ROWS,
    *cpu_platform.ROWS,
    *cpu_layers.ROWS,
)
