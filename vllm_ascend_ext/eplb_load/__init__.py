# SPDX-License-Identifier: Apache-2.0
"""Expert load: counting it, and what the counts say about balance."""
