# SPDX-License-Identifier: Apache-2.0
"""Lists what the CPU platform puts in the place of symbols of vLLM 0.23.0.

The rows in `upstream/seams/rows/cpu_platform.py` and `cpu_layers.py` say why each is replaced, and until when.
"""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.integration.upstream.seams.rows import cpu_layers, cpu_platform
from vllm_ascend_ext.integration.upstream.seams.seam import Seam


class _EplbCapable:
    """Stands for the platform where vLLM asks "is this CUDA?" and means "can this rebalance experts?"."""

    def __init__(self, platform: Any) -> None:
        self._platform = platform

    def is_cuda_alike(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)


def for_configuration() -> list[tuple[Seam, Any]]:
    """Returns what must be in place before a `VllmConfig` is built: in every process."""
    import vllm.config.parallel as parallel
    from vllm.platforms import current_platform

    gate = parallel.current_platform
    capable = gate if isinstance(gate, _EplbCapable) else _EplbCapable(current_platform)
    return [(cpu_platform.GATE_OF_EPLB, capable)]


def for_worker() -> list[tuple[Seam, Any]]:
    """Returns what the model and the sampler use: in workers, so that other processes need not import it."""
    from vllm_ascend_ext.integration.cpu_platform import sampling
    from vllm_ascend_ext.integration.cpu_platform.communicator import exchange_row_counts
    from vllm_ascend_ext.integration.cpu_platform.mla import get_mla_prefill_backend
    from vllm_ascend_ext.integration.cpu_platform.moe import eplb_map_to_physical_and_record

    return [
        *((seam, get_mla_prefill_backend) for seam in cpu_layers.PREFILL_BACKENDS),
        (cpu_layers.MAP_AND_RECORD, eplb_map_to_physical_and_record),
        (cpu_layers.HAS_TRITON, False),
        (cpu_platform.ROW_COUNTS, exchange_row_counts),
        *((seam, sampling.KERNELS[name]) for name, seam in cpu_layers.KERNELS.items()),
    ]
