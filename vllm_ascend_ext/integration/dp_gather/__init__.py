# SPDX-License-Identifier: Apache-2.0
"""Runs the DP gather in vLLM and vllm-ascend."""
