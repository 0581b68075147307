# SPDX-License-Identifier: Apache-2.0
"""Parallel features of attention: how rows lie on the ranks (`layout`), and what is built on it."""
