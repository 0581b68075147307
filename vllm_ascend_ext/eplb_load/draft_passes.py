# SPDX-License-Identifier: Apache-2.0
"""Counts the passes of a draft model that one call runs, and that one captured graph may hold together.

Shapes: P = passes of a run, L = MoE layers, T = rows (padding included), K = experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder


class DraftPasses:
    """Tells a recorder how many rows of each pass are real, from persistent memory that a run finds filled.

    The first pass routes the target's rows once more, each later one a row a request. No host call stands between
    the passes of a captured run: a layer that has counted a pass moves the number of the later ones into place
    itself, by one copy of a scalar. A layer that a run leaves out, as a further MTP layer, stays out of it.

    Args:
        recorder: the draft model's recorder.
        num_passes: P, at least 1.
    """

    def __init__(self, recorder: ExpertLoadRecorder, num_passes: int) -> None:
        if num_passes < 1:
            raise ValueError(f"num_passes={num_passes} is not at least 1")
        self.num_passes = num_passes
        self._recorder = recorder
        num_layers = recorder.load_LE.shape[0]
        # apart, for a kernel reads its scalar where a block of memory begins
        self._present = [torch.zeros_like(recorder.num_tokens) for _ in range(num_layers)]
        self._later = torch.zeros_like(recorder.num_tokens)

    def begin(self, num_tokens_P: Sequence[int]) -> None:  # noqa: N803
        """Sets the real rows of each pass of the run that follows, outside graphs.

        Raises:
            ValueError: a negative number, another number of passes, or later passes that differ.
            LoadOverflowError: the run could overflow a counter; nothing has changed.
        """
        first, *later = num_tokens_P
        if len(num_tokens_P) != self.num_passes or len(set(later)) > 1:
            raise ValueError(f"{list(num_tokens_P)} are not {self.num_passes} passes of which the later are alike")
        self._recorder.expect(num_tokens_P)
        for num_tokens in self._present:
            num_tokens.fill_(first)
        if later:
            self._later.fill_(later[0])

    def record(self, layer: int, topk_ids_TK: torch.Tensor) -> None:  # noqa: N803
        """Counts one layer's routing in one pass; see `ExpertLoadRecorder.record`."""
        num_tokens = self._present[layer]
        self._recorder.record(layer, topk_ids_TK, num_tokens)
        if self.num_passes > 1:
            num_tokens.copy_(self._later)
