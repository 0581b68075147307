# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm-ascend-ext doctor`: what is installed, active, untested and broken, and how to mend it."""
