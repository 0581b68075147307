# SPDX-License-Identifier: Apache-2.0
"""Tells which classes of deployments tests have verified."""
