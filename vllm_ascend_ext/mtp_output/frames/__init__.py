# SPDX-License-Identifier: Apache-2.0
"""Encodes a step's tokens as a binary frame."""
