# SPDX-License-Identifier: Apache-2.0
"""Brings the features' adaptors for one stack together: vLLM's own layers, or vllm-ascend's."""
