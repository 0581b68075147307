# SPDX-License-Identifier: Apache-2.0
"""Extends vLLM on Ascend NPUs, CUDA and the CPU for serving mixture-of-experts models.

Importing the package does nothing; vLLM calls the two entry points in `integration.startup.plugin`.
"""

__version__ = "0.1.0"
