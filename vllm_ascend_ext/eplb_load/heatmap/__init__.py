# SPDX-License-Identifier: Apache-2.0
"""Draws expert load as heat maps, as a page and as a picture."""
