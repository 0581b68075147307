# SPDX-License-Identifier: Apache-2.0
"""Defines the operators: one file each, with schema, reference, fake and the public function."""

from vllm_ascend_ext.mtp_record import MtpRecord
from vllm_ascend_ext.ops import ascendc, cpu, triton
from vllm_ascend_ext.ops._library import MissingKernelError, OpCoverage, coverage, require_kernels
from vllm_ascend_ext.ops.add_rms_norm import add_rms_norm
from vllm_ascend_ext.ops.dp_rows import dp_pad, dp_unpad
from vllm_ascend_ext.ops.expert_load import expert_load_add_, expert_load_adder
from vllm_ascend_ext.ops.expert_load_counts import expert_load_add_counts_
from vllm_ascend_ext.ops.mtp_pack import MtpOutput, TopK, mtp_pack_output, mtp_unpack_output
from vllm_ascend_ext.ops.speculate_output import (
    speculate_get_output,
    speculate_get_output_with_topk,
    speculate_save_output,
    speculate_save_output_with_topk,
)

cpu.register()
triton.register()
ascendc.register()

__all__ = [
    "MissingKernelError",
    "MtpOutput",
    "MtpRecord",
    "OpCoverage",
    "TopK",
    "add_rms_norm",
    "coverage",
    "dp_pad",
    "dp_unpad",
    "expert_load_add_",
    "expert_load_add_counts_",
    "expert_load_adder",
    "mtp_pack_output",
    "mtp_unpack_output",
    "require_kernels",
    "speculate_get_output",
    "speculate_get_output_with_topk",
    "speculate_save_output",
    "speculate_save_output_with_topk",
]
