# SPDX-License-Identifier: Apache-2.0
"""Names the SoCs that `vllm-ascend-ext check` answers for; the command's parser needs them without torch."""

from __future__ import annotations

SOCS = ("A2", "A3", "A5")
ASKED = SOCS[:2]  # unless --soc says otherwise
