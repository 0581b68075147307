# SPDX-License-Identifier: Apache-2.0
"""Says which features start with a `vllm serve` command on vllm-ascend, from the command alone."""
