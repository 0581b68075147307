# SPDX-License-Identifier: Apache-2.0
"""vllm-ascend-ext: mixture-of-experts serving extensions for vLLM on Ascend NPUs, CUDA and the CPU.

Importing the package does nothing; vLLM calls the two entry points in `integration.plugin`.
"""

__version__ = "0.1.0"
