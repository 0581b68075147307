# SPDX-License-Identifier: Apache-2.0
"""Scattered attention input: which rows a rank holds, the layers on a shard, and what that costs."""
