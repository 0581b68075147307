# SPDX-License-Identifier: Apache-2.0
"""Which rows a rank of vllm-ascend counts: cut as torch cuts them, each real row once, whatever the padding."""

from __future__ import annotations

import pytest
import torch

from vllm_ascend_ext.integration.eplb_load.ascend_rows import tp_slice
from vllm_ascend_ext.rank_place import RankPlace


@pytest.mark.parametrize("tp_size", [1, 2, 3, 4, 8])
def test_each_real_row_is_in_one_slice(tp_size: int) -> None:
    for num_rows in range(tp_size, 20):
        slices = [tp_slice(num_rows, RankPlace(rank, tp_size)) for rank in range(tp_size)]
        parts = torch.tensor_split(torch.arange(num_rows), tp_size)
        cut = [list(range(one.first, one.first + one.size)) for one in slices]
        assert cut == [part.tolist() for part in parts]
        for num_tokens in range(num_rows + 1):  # the rest is padding
            counted = [
                row for rows, one in zip(cut, slices, strict=True) for row in rows[: one.num_real(num_tokens)]
            ]
            assert counted == list(range(num_tokens))
