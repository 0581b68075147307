# SPDX-License-Identifier: Apache-2.0
"""Moves rows of several ranks around attention and experts: who holds which rows, what moving costs, and the
moving."""
