# SPDX-License-Identifier: Apache-2.0
"""Writes parts of generated pages, one file a page."""
