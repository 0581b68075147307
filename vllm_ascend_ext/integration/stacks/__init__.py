# SPDX-License-Identifier: Apache-2.0
"""Gathers the features' adaptors for each stack: for vLLM's own layers, and for vllm-ascend's."""
