# SPDX-License-Identifier: Apache-2.0
"""Counts expert load and tells what the counts say about balance."""
