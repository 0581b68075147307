# SPDX-License-Identifier: Apache-2.0
"""Turns a step's tensors into frames."""
