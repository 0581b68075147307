# SPDX-License-Identifier: Apache-2.0
"""Counts expert load in vLLM and vllm-ascend, and feeds their load balancing with it."""
