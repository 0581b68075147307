# SPDX-License-Identifier: Apache-2.0
"""MTP output in vLLM's and vllm-ascend's runners."""
