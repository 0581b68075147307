# SPDX-License-Identifier: Apache-2.0
"""Counts copies from a device to the host, and which of them copy what the sampler put out, below all of vLLM."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CopyCounts(NamedTuple):
    """Counts copies. sampled: of the sampler's own tensors; packed: of the buffers that they were packed into."""

    sampled: int
    packed: int


class DeviceCopies(TorchDispatchMode):
    """Counts copies while active. On the CPU there is no device, and nothing is counted."""

    supports_higher_order_operators = True  # torch.compile's, which do not copy to the host

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self._runner, self._sample = runner, runner._sample
        self._sampled: list[torch.Tensor] = []  # kept alive, so that no address is used again
        self._counts = {"sampled": 0, "packed": 0}
        runner._sample = self._note

    def result(self) -> CopyCounts:
        return CopyCounts(**self._counts)

    def _note(self, *args: Any, **kwargs: Any) -> Any:
        output = self._sample(*args, **kwargs)
        tensors = [output.sampled_token_ids, *(output.logprobs_tensors or ())]
        self._sampled += [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
        return output

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.device.type == "cpu":
            # whatever it is called: `copy_`, `_to_copy`, or a device's own `to`
            for source in args[:2]:
                if isinstance(source, torch.Tensor) and source.device.type != "cpu":
                    self._count(source.untyped_storage().data_ptr())
        return out

    def _count(self, address: int) -> None:
        self._counts["sampled"] += address in {x.untyped_storage().data_ptr() for x in self._sampled}
        outputs = getattr(self._runner, "step_outputs", None)
        copier = None if outputs is None else outputs.outputs.copier
        self._counts["packed"] += copier is not None and address in copier.addresses
