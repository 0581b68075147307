# SPDX-License-Identifier: Apache-2.0
"""Describes machines by published figures, each with its source, for every prediction of time that is made."""
