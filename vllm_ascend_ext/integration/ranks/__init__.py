# SPDX-License-Identifier: Apache-2.0
"""Holds what concerns the ranks of an engine together: places, groups, deadline, agreement and traffic."""
