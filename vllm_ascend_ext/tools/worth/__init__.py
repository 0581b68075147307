# SPDX-License-Identifier: Apache-2.0
"""Predicts what each feature costs and saves in a step of a model on a machine: `vllm-ascend-ext plan step`."""
