# SPDX-License-Identifier: Apache-2.0
"""What concerns the ranks of an engine together."""
