# SPDX-License-Identifier: Apache-2.0
"""An emulated Ascend: the unmodified torch_npu on this machine's processor, with a race checker. See README.md."""
