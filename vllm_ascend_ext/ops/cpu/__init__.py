# SPDX-License-Identifier: Apache-2.0
"""Implements operators for the CPU in numpy, where the reference, which must never wait for a device, is slow."""

from vllm_ascend_ext.ops._library import register_kernels
from vllm_ascend_ext.ops.cpu import expert_load


def register() -> None:
    """Makes the kernels serve tensors of the CPU."""
    register_kernels("cpu", {"expert_load_add_": expert_load.expert_load_add_})
