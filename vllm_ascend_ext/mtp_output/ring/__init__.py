# SPDX-License-Identifier: Apache-2.0
"""Implements the ring in shared memory between a sender and its readers."""
