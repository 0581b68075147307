# SPDX-License-Identifier: Apache-2.0
"""Provides what vllm-ascend needs beyond torch_npu and this emulator: a few stand-ins, all listed in
`standins.py`."""
