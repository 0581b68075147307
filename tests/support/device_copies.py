# SPDX-License-Identifier: Apache-2.0
"""Counts copies from a device to the host, which of them copy what the sampler put out, and waits for the device,
below all of vLLM."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CopyCounts(NamedTuple):
    """Counts copies. sampled: of the sampler's own tensors; packed: of the buffers that they were packed into."""

    sampled: int
    packed: int


class DeviceTraffic(NamedTuple):
    """Counts all copies to the host, and waits: for the device, a stream or an event, or in a copy that blocks."""

    copies: int
    waits: int


class DeviceCopies(TorchDispatchMode):
    """Counts copies while active. On the CPU there is no device, and nothing is counted."""

    supports_higher_order_operators = True  # torch.compile's, which do not copy to the host

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self._runner, self._sample = runner, runner._sample
        self._sampled: list[torch.Tensor] = []  # kept alive, so that no address is used again
        self._counts = {"sampled": 0, "packed": 0}
        self._copies = self._waits = 0
        self._is_active = False
        runner._sample = self._note
        self._count_waits()

    def result(self) -> CopyCounts:
        return CopyCounts(**self._counts)

    def traffic(self) -> DeviceTraffic:
        return DeviceTraffic(self._copies, self._waits)

    def __enter__(self) -> Any:
        self._is_active = True
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self._is_active = False
        super().__exit__(*args)

    def _count_waits(self) -> None:
        """Wraps what waits for the device; a rank ends with its run, so nobody puts it back."""
        device = torch.get_device_module()
        for owner in (device, getattr(device, "Stream", None), getattr(device, "Event", None)):
            if hasattr(owner, "synchronize"):
                owner.synchronize = self._counted(owner.synchronize)

    def _counted(self, wait: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._waits += self._is_active
            return wait(*args, **kwargs)

        return counted

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
                    self._copies += 1
                    self._waits += not (True in args[2:] or (kwargs or {}).get("non_blocking"))
        elif func is torch.ops.aten._local_scalar_dense.default and args[0].device.type != "cpu":
            self._copies += 1
            self._waits += 1
        return out

    def _count(self, address: int) -> None:
        self._counts["sampled"] += address in {x.untyped_storage().data_ptr() for x in self._sampled}
        outputs = getattr(self._runner, "step_outputs", None)
        copier = None if outputs is None else outputs.outputs.copier
        self._counts["packed"] += copier is not None and address in copier.addresses
