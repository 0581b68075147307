# SPDX-License-Identifier: Apache-2.0
"""From vLLM's entry points to our worker."""
