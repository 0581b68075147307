# SPDX-License-Identifier: Apache-2.0
"""Defines operators of torch.ops._C_ascend for LoRA, drafts, caches and the vocabulary, by torch operations that
the host need not read, so that they can be captured.

Signatures: vllm-ascend 0.23.0 csrc/torch_binding.cpp. Meaning: the reference functions of its tests
(tests/e2e/nightly/single_node/ops/singlecard_ops). Both Apache-2.0.
"""
