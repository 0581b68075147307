# SPDX-License-Identifier: Apache-2.0
"""Draws race reports as one HTML file: who ran when on which stream, and the order that is missing."""
