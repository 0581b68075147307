# SPDX-License-Identifier: Apache-2.0
"""Takes MTP output from vLLM's and vllm-ascend's runners."""
