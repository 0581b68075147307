# SPDX-License-Identifier: Apache-2.0
"""Builds the emulator and starts programs on it, from any Python; standard library only."""
