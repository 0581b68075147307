# SPDX-License-Identifier: Apache-2.0
"""Operators: one file each, with schema, reference, fake and the public function."""

from vllm_ascend_ext.ops._library import MissingKernelError, OpCoverage, coverage, require_kernels
from vllm_ascend_ext.ops.expert_load import expert_load_add_

__all__ = ["MissingKernelError", "OpCoverage", "coverage", "expert_load_add_", "require_kernels"]
