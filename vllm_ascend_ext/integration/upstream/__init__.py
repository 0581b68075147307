# SPDX-License-Identifier: Apache-2.0
"""Holds what we know of vLLM and vllm-ascend: versions, seams, devices, layers."""
