# SPDX-License-Identifier: Apache-2.0
"""Starts engines around the product: demo, doctor, and the harness of tests and benchmarks."""
