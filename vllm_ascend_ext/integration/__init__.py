# SPDX-License-Identifier: Apache-2.0
"""Binds each feature to the layers, workers and servers of vLLM and vllm-ascend, which only this room knows."""
