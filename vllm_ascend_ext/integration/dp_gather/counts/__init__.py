# SPDX-License-Identifier: Apache-2.0
"""Holds the three ways by which replicas learn each other's row counts."""
