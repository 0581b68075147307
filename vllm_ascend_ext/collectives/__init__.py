# SPDX-License-Identifier: Apache-2.0
"""Exchanges rows in one process group, with a deadline on every wait and a count of every byte."""
