# SPDX-License-Identifier: Apache-2.0
"""The only room that knows vLLM and vllm-ascend: it binds each feature to their layers, workers and servers."""
