# SPDX-License-Identifier: Apache-2.0
"""Sends frames to a reader on another host."""
