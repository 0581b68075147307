# SPDX-License-Identifier: Apache-2.0
"""Runs other projects' own tests on the emulator, file by file, and says what came of each."""
