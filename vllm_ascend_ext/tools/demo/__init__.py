# SPDX-License-Identifier: Apache-2.0
"""Runs `vllm-ascend-ext demo`: an engine with everything on, checked against a plain one, and its report."""
