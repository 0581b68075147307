# SPDX-License-Identifier: Apache-2.0
"""Quantised layers may be given a shard: a row's scale is its own.

Not among the engines' tests, whose ranks are forks of a process that must not have used a device.
"""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.emulator


def test_a_row_is_quantised_by_itself() -> None:
    """A shard's rows, quantised and multiplied, are the batch's to the bit, whichever rows stand beside them."""
    import torch_npu

    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (96, 48), dtype=torch.int8).npu()
    scale = (torch.rand(48) / 127).npu()

    def project(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, row_scales = torch_npu.npu_dynamic_quant(x)
        out = torch_npu.npu_quant_matmul(values, weight, scale, pertoken_scale=row_scales, output_dtype=x.dtype)
        return values.cpu(), row_scales.cpu(), out.cpu()

    for dtype in (torch.bfloat16, torch.float16):
        # rows of very different sizes, one of zeros
        rows = torch.randn(13, 96) * torch.logspace(-4, 4, 13).unsqueeze(1)
        rows[5] = 0
        whole = rows.to(dtype).npu()
        for num_ranks in (2, 4, 8):
            longest = -(-13 // num_ranks)
            padded = torch.cat([whole, whole.new_zeros(num_ranks * longest - 13, 96)])
            parts = [project(padded[begin : begin + longest]) for begin in range(0, len(padded), longest)]
            for of_batch, of_shards in zip(project(whole), zip(*parts, strict=True), strict=True):
                assert torch.equal(torch.cat(of_shards)[:13], of_batch)
