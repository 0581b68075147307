# SPDX-License-Identifier: Apache-2.0
"""Holds what runs in the API server's process: the metrics, the report and the shutdown."""
