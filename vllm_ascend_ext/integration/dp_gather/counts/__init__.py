# SPDX-License-Identifier: Apache-2.0
"""The three ways by which replicas learn each other's rows."""
