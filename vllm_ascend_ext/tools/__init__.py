# SPDX-License-Identifier: Apache-2.0
"""Programs around the product that start engines: demo, doctor, and the harness of tests and benchmarks."""
