# SPDX-License-Identifier: Apache-2.0
"""Emulates an Ascend NPU: the unmodified torch_npu on this machine's processor, with a race checker
(README.md)."""

pytest_plugins = (f"{__name__}.pytest_plugin",)  # with `pytest -p` and the name of this package
