# SPDX-License-Identifier: Apache-2.0
"""Carries the output of multi-token prediction to its readers in frames, and bounds the tokens of a launch."""
