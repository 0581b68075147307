# SPDX-License-Identifier: Apache-2.0
"""Says for which kind of device vllm-ascend was built, which has to be the emulated one."""

from __future__ import annotations

import os

DEFAULT_SOC = "Ascend910B1"
# the beginning of a SoC's name -> vllm_ascend.utils.AscendDeviceType
_KINDS = {"Ascend910B": "A2", "Ascend910_93": "A3", "Ascend310P": "_310P"}


def kind_of(soc: str) -> str:
    """Returns the name that vllm-ascend has for devices with this SoC.

    Raises:
        ValueError: vllm-ascend has none, or the emulator does not know it.
    """
    for beginning, kind in _KINDS.items():
        if soc.startswith(beginning):
            return kind
    known = ", ".join(f"{beginning}*" for beginning in _KINDS)
    raise ValueError(f"EMULATOR_SOC={soc}: vllm-ascend runs here on {known}")


device_type = kind_of(os.environ.get("EMULATOR_SOC") or DEFAULT_SOC)
