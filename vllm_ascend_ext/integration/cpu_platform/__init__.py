# SPDX-License-Identifier: Apache-2.0
"""Brings a CPU platform for vLLM in plain torch, for development and CI without NPU, GPU or compiled extension.

vLLM 0.23.0 has a CPU backend, but its kernels are compiled against one torch version, and without patches it
has no MLA, no expert parallelism, no data parallelism for MoE, no EPLB and no asynchronous scheduling.
`replacements.py` lists what is replaced in vLLM's modules; `upstream/seams/rows/` has the reasons, the upstream
sources and the removal conditions.
"""
