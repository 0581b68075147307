# SPDX-License-Identifier: Apache-2.0
"""Frames to a reader on another host."""
