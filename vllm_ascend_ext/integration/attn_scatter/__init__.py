# SPDX-License-Identifier: Apache-2.0
"""Runs vLLM's models with scattered attention input."""
