# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input in vLLM."""
