# SPDX-License-Identifier: Apache-2.0
"""Holds the table of seams, with a file for each feature."""
