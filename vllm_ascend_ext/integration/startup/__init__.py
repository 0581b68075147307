# SPDX-License-Identifier: Apache-2.0
"""Leads from vLLM's entry points to our worker."""
