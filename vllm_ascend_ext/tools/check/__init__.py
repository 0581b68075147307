# SPDX-License-Identifier: Apache-2.0
"""Says which features start with a `vllm serve` command on vllm-ascend, from the command alone.

The names of the SoCs that it answers for are here, where the command's parser finds them without torch.
"""

from __future__ import annotations

SOCS = ("A2", "A3", "A5")
ASKED = SOCS[:2]  # unless --soc says otherwise
