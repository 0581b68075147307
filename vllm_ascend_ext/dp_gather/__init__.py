# SPDX-License-Identifier: Apache-2.0
"""Rows of several ranks around attention and experts: who holds which, what moving them costs, and the moving."""
