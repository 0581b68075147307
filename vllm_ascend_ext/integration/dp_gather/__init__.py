# SPDX-License-Identifier: Apache-2.0
"""The DP gather in vLLM and vllm-ascend."""
