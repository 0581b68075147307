# SPDX-License-Identifier: Apache-2.0
"""The binary frame that carries a step's tokens."""
