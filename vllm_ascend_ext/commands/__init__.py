# SPDX-License-Identifier: Apache-2.0
"""Implements the verbs of the command line, one file each: their arguments and what they run."""
