# SPDX-License-Identifier: Apache-2.0
"""From a step's tensors to what is sent."""
