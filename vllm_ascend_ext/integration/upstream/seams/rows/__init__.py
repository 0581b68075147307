# SPDX-License-Identifier: Apache-2.0
"""The table of seams, a file a feature."""
