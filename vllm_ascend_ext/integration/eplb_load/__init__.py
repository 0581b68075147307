# SPDX-License-Identifier: Apache-2.0
"""Expert load in vLLM and vllm-ascend."""
