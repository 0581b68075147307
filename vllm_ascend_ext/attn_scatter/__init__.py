# SPDX-License-Identifier: Apache-2.0
"""Runs attention input on a shard of the rows: the layout of rows, the layers on a shard, and what a layer
costs."""
