# SPDX-License-Identifier: Apache-2.0
"""Defines the operators of torch.ops._C_ascend that DeepSeek-V4 calls: compressed keys, an indexer over them,
attention to a window and to those, hyper-connections, routing by token.

Signatures: vllm-ascend csrc/torch_binding.cpp, its attention/dsa_v1.py and device/device_op.py (Apache-2.0).
Meaning: transformers' DeepSeek-V4 (Apache-2.0), and for the places of compressed keys the reference function of
vllm-ascend's test (tests/e2e/nightly/single_node/ops/singlecard_ops/test_compressor_metadata.py).

All are torch operations of fixed shapes without reads of the host, so that they are captured in graphs.

Shapes: T tokens of B requests, packed; N heads of size D.
"""
