# SPDX-License-Identifier: Apache-2.0
"""Collectives over one process group, with a deadline on every wait and a count of every byte."""
