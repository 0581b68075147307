# SPDX-License-Identifier: Apache-2.0
"""Lists the machines that are known by name: every number as it was published, what of it is reached, and who says
so.

A rank is a device as torch sees it: on an Atlas A3 one die of two. An assumption says that it is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.machines.rates import Rates


@dataclass(frozen=True, slots=True)
class Figure:
    """Holds one published number.

    Attributes:
        field: which of `Rates` it gives.
        published: the number as published, in the field's unit.
        reached: the share of it that programs get.
        source: where both come from.
    """

    field: str
    published: float
    reached: float
    source: str

    @property
    def value(self) -> float:
        return self.published * self.reached


@dataclass(frozen=True, slots=True)
class KnownMachine:
    """Describes one machine: its name, what it is, and its figures, one for each field of `Rates` that has one."""

    name: str
    title: str
    figures: tuple[Figure, ...]

    @property
    def rates(self) -> Rates:
        """Returns what the figures give."""
        values: dict[str, Any] = {figure.field: figure.value for figure in self.figures}
        for whole in ("mesh", "node"):
            values[whole] = int(values.get(whole, 0))
        return Rates(self.name, **values)


_MSMODELING = "Ascend/msmodeling tensor_cast/device.py"
_CLOUDMATRIX = "arXiv 2506.12708, tables of operators, DeepSeek-R1 on a die of the same core"
_MEASURED_910B = "gameofdimension/limulidae README, torch_npu 2.4 on eight 910B"
_CUBE_AND_MEMORY = (
    Figure("flops", 353.9e12, 0.927, f"{_MSMODELING}; 328 TFLOP/s measured: {_MEASURED_910B}"),
    Figure("int8", 752e12, 0.80, f"{_MSMODELING}; 77.4 to 82.7 % measured: {_CLOUDMATRIX}"),
    Figure("vector", 11e12, 0.5, f"{_MSMODELING}: 11 TFLOP/s in float32, where a multiply-add counts as two"),
    Figure("memory", 1.6e12, 0.841, f"Ascend C documentation, GM ~1.6 TB/s; 84.1 % measured: {_CLOUDMATRIX}"),
    Figure("launch_s", 20.5e-6, 1.0, "Ascend C documentation: 20 to 21 us with all cores; fewer start sooner"),
    Figure("collective_s", 10e-6, 1.0, f"{_MSMODELING}, comm_op_cost_s, which its authors want confirmed"),
    Figure("hop_s", 0.5e-6, 1.0, f"{_MSMODELING}, latency_s within a server, likewise"),
    Figure("network", 25e9, 0.7, f"RoCE of 200 Gbit/s a device and the share of it: {_MSMODELING}, likewise"),
)
_A3_FIGURES = (
    *_CUBE_AND_MEMORY,
    Figure(
        "link",
        196e9,
        0.70,
        f"HCCS one way and the share of it: {_MSMODELING}; between the 0.74 and 0.64 that dispatch and combine "
        "reach on 8 dies: sgl-project/sgl-kernel-npu README, 146 and 125 GB/s",
    ),
)

A2 = KnownMachine(
    "a2",
    "Atlas 800 A2, 910B of 376 TFLOP/s: 8 NPUs joined each to each, RoCE beyond",
    (
        *_CUBE_AND_MEMORY,
        Figure(
            "link",
            196e9,
            0.66,
            f"HCCS one way, seven links of 28 GB/s: {_MSMODELING}; all-gather on 8 NPUs at 149 GB/s of data, "
            f"130 sent: {_MEASURED_910B}",
        ),
        Figure("all_reduce", 196e9, 0.64, f"the same; all-reduce at 72 GB/s of data, 126 sent: {_MEASURED_910B}"),
        Figure("mesh", 8, 1.0, f"{_MSMODELING}: FULL_MESH; on 2 and 4 NPUs 19 and 48 GB/s: {_MEASURED_910B}"),
        Figure("node", 8, 1.0, _MSMODELING),
    ),
)
A3 = KnownMachine(
    "a3",
    "Atlas 900 A3 SuperPoD: dies of 910C, HCCS among up to 768 of them",
    (*_A3_FIGURES, Figure("node", 768, 1.0, f"{_MSMODELING}: a grid of 48 x 8 x 2")),
)
A3_ROCE = KnownMachine(
    "a3-roce",
    "Atlas 800 A3 servers without a SuperPoD: 16 dies of 910C by HCCS, RoCE beyond",
    (*_A3_FIGURES, Figure("node", 16, 1.0, f"{_MSMODELING} and its A3_INTERCONNECT_ROCE: 8 x 2 dies a server")),
)

_CALIBRATED_H20 = "measured on two H20: acupof-ai/tileRL, ledger of 2026-09-11"
_NCCL = "NVIDIA/nccl-tests #212: of NVLink's 450 GB/s one way rings reach 370"
H20 = KnownMachine(
    "h20",
    "NVIDIA H20-96G, NVLink of 900 GB/s",
    (
        Figure("flops", 148e12, 0.926, f"LMSYS, 2025-09-26; 136.4 to 137.8 TFLOP/s {_CALIBRATED_H20}"),
        Figure("int8", 296e12, 0.926, "twice bfloat16: LMSYS, 2025-09-26; the share of bfloat16 is assumed"),
        Figure("fp8", 296e12, 0.926, "LMSYS, 2025-09-26; the share of bfloat16 is assumed"),
        Figure(
            "vector",
            44e12,
            0.5,
            "44 TFLOP/s in float32, where a multiply-add counts as two: press on NVIDIA's sheet",
        ),
        Figure("memory", 4.0e12, 0.823, f"LMSYS, 2025-09-26; 3292 GB/s {_CALIBRATED_H20}"),
        Figure("link", 450e9, 0.822, _NCCL),
        Figure("all_reduce", 450e9, 0.822, f"{_NCCL}; 480 with NVLS, which SGLang leaves off unless asked"),
        Figure("collective_s", 30e-6, 1.0, "assumed"),
        Figure("launch_s", 5e-6, 1.0, "assumed"),
    ),
)
_DISCUSSED = "measured, 8 x 16384 rows of 7168 bfloat16: SGLang #28216's discussion"
MI355X = KnownMachine(
    "mi355x",
    "AMD Instinct MI355X, 8 GPUs",
    (
        Figure("flops", 2.5e15, 0.7, "AMD's data sheet; the share is assumed"),
        Figure("fp8", 5.0e15, 0.7, "AMD's data sheet; the share is assumed"),
        Figure("memory", 8e12, 0.625, "AMD's data sheet; the share is assumed"),
        Figure("link", 364e9, 1.0, f"all-gather {_DISCUSSED}; reduce-scatter is taken to be as fast"),
        Figure("all_reduce", 373e9, 1.0, _DISCUSSED),
        Figure("variable", 313e9, 1.0, f"all-gather of uneven parts {_DISCUSSED}"),
        Figure("collective_s", 30e-6, 1.0, "assumed"),
        Figure("launch_s", 5e-6, 1.0, "assumed"),
    ),
)

KNOWN: Mapping[str, KnownMachine] = {machine.name: machine for machine in (A2, A3, A3_ROCE, H20, MI355X)}
"""Machines by name."""
