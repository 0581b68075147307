# SPDX-License-Identifier: Apache-2.0
"""Lists the stand-ins, one record each, and installs the import hook that puts them in place.

vllm-ascend calls libraries that exist only as compiled NPU code: its own kernels, ATB, Triton, pyACL. What
eager steps and graphs need of them is stood in for here by torch operations on NPU tensors, which run as emulated
operators on the stream they were called on, so that the race checker sees them. Everything else of vllm-ascend and
all of torch_npu is untouched. What is not in this list is missing, and says so when it is called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import after_import


@dataclass(frozen=True, slots=True)
class StandIn:
    """Describes one replacement.

    target: what is replaced, "module", "module:attribute" (of an object of the module: "module:object.attribute")
        or "module:namespace::operator". The module is the one whose import puts the stand-in in place.
    source: ours: a file of this folder that becomes the module, "file:attribute" that is put there, or for an
        operator that is only to be declared its schema.
    reason: why the original cannot run here.
    does: what ours does instead.
    version: beginning of the versions of vllm-ascend that need it; "" for all.
    """

    target: str
    source: str
    reason: str
    does: str
    version: str = ""

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.target.partition(":")[2]


_ATB = "torch_npu.op_plugin.atb._atb_ops:atb::"
_NO_ATB = "ATB (libatb.so) is a closed C++ library with virtual classes; ours only loads"
_NO_TRITON = "a Triton kernel, and Triton has no back end for an emulated NPU"
_NO_KERNELS = "vllm-ascend's kernels are AscendC, compiled by CANN for the NPU"

STAND_INS = (
    StandIn(
        target="acl",
        source="acl/__init__.py",
        reason="pyACL comes with CANN, not from PyPI; vllm_ascend.device_allocator.camem imports acl.rt.memcpy",
        does="acl.rt.memcpy over the emulator's aclrtMemcpy",
    ),
    StandIn(
        target="vllm_ascend.vllm_ascend_C",
        source="custom_operators.py",
        reason=_NO_KERNELS,
        does="defines the operators of torch.ops._C_ascend that are called, by torch_npu's own: "
        "npu_add_rms_norm_bias, moe_gating_top_k, npu_moe_init_routing_custom, "
        "grouped_matmul_swiglu_quant_weight_nz and its tensor_list, grouped_matmul_swiglu_quant_v2, "
        "npu_dequant_swiglu_quant, "
        "dispatch_ffn_combine, npu_lightning_indexer, npu_sparse_flash_attention, npu_gemma_rms_norm, "
        "npu_causal_conv1d_custom, npu_fused_gdn_gating, npu_recurrent_gated_delta_rule; those of DeepSeek-V4 "
        "in `compressed` and of LoRA, drafts and caches in `kernels`, by torch operations; with shapes for "
        "torch.compile",
    ),
    StandIn(
        target="vllm_ascend._build_info:__device_type__",
        source="build_info.py:device_type",
        reason="vllm-ascend records at its installation for which device it was built; the emulator's is chosen "
        "when a process starts (EMULATOR_SOC)",
        does="says A2, A3 or 310P, as the emulated SoC is",
    ),
    *(
        StandIn(
            target=f"vllm_ascend.ops.fused_moe.token_dispatcher:torch_npu.{name}",
            source=f"float32_mc2.py:{name}",
            reason="torch_npu refuses float32 rows, for an NPU moves and sums half types only; tokens are "
            "compared with a reference in float32",
            does="float32 goes to the emulated operator itself; every other type goes through torch_npu",
        )
        for name in ("npu_moe_distribute_dispatch_v2", "npu_moe_distribute_combine_v2")
    ),
    *(
        StandIn(
            target=f"vllm_ascend.{module}:{name}",
            source=f"compressed/float32.py:{ours}",
            reason="DeepSeek-V4's matrix and cache are bfloat16 and meet its activations; tokens are compared "
            "with a reference in float32",
            does=does,
            version="0.23",
        )
        for module, name, ours, does in (
            ("attention.dsa_v1", "rotate_activation", "rotate_activation", "the matrix in the activations' type"),
            ("attention.dsa_v1", "hadamard_linear", "hadamard_linear", "the matrix in the activations' type"),
            ("models.layer.attention.layer", "kv_cache_dtype_str_to_dtype", "cache_dtype", "bfloat16"),
        )
    ),
    StandIn(
        target=_ATB + "_npu_rotary_embedding",
        source="atb.py:rotary_embedding",
        reason=_NO_ATB,
        does="rotates query and key in place by cos_sin_cache[positions]",
    ),
    StandIn(
        target=_ATB + "_npu_reshape_and_cache",
        source="atb.py:reshape_and_cache",
        reason=_NO_ATB,
        does="writes keys and values to their slots of the cache by torch_npu's own npu_scatter_pa_kv_cache",
    ),
    StandIn(
        target=_ATB + "npu_paged_cache_load.out",
        source="atb.py:paged_cache_load",
        reason=_NO_ATB,
        does="reads the tokens of a block table's requests from the cache",
    ),
    StandIn(
        target=_ATB + "_npu_matmul_add_fp32",
        source="atb.py:matmul_add_fp32",
        reason=_NO_ATB + "; vllm-ascend's worker calls it once to warm ATB up",
        does="C += x^T weight",
    ),
    *(
        StandIn(
            target=f"torchvision.extension:torchvision::{name}",
            source=f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            reason="PyPI's torchvision is built for CUDA, so that its operators do not load, and then its import "
            "fails on this one; vllm-ascend imports all models, and some of them torchvision",
            does="declares the operator; nothing calls it",
        )
        for name in ("nms", "qnms")
    ),
    *(
        StandIn(
            target=f"vllm_ascend.{name}",
            source=f"linear_attention.py:{ours}",
            reason=_NO_TRITON,
            does=does,
            version=version,
        )
        for version, name, ours, does in (
            ("", "ops.gdn:chunk_gated_delta_rule", "chunk_gated_delta_rule", "the delta rule, emulated"),
            ("", "ops.gdn:l2norm_fwd", "l2norm", "rows of length one"),
            ("", "ops.gdn:clear_ssm_states", "clear_ssm_states", "zeroes the states of sequences that begin"),
            ("", "ops.gdn:fused_qkvzba_split_reshape_cat", "split_qkvzba", "takes a projection apart"),
            ("", "ops.layernorm:layer_norm_fwd_npu", "gated_norm", "an RMS norm with a gate"),
            ("0.30", "ops.gdn:gather_ssm_states", "gather_ssm_states", "reads states from their rows"),
            ("0.30", "ops.gdn:scatter_ssm_states_", "scatter_ssm_states", "writes states to their rows"),
            ("0.30", "device.device_op:fused_gdn_gating_patch", "gdn_gating", "what a state keeps and learns"),
            ("0.30", "device.device_op:l2norm_fwd", "l2norm", "rows of length one"),
        )
    ),
    *(
        StandIn(
            target=f"{module}:_compute_slot_mapping_kernel",
            source="slot_mapping.py:compute_slot_mapping",
            reason=_NO_TRITON,
            does="the slots of all tokens in a few torch operations",
            version=version,
        )
        for version, module in (
            ("0.23", "vllm.v1.worker.block_table"),
            ("0.30", "vllm_ascend.ops.triton.compute_slot_mapping"),
        )
    ),
    *(
        StandIn(
            target=module,
            source="fla_npu/__init__.py",
            reason="kernels of linear attention, compiled for the NPU; vllm-ascend imports them for all models",
            does="those of the gated delta net by torch and the emulated delta rule; names of others are "
            "errors when they are called",
            version="0.30",
        )
        for module in ("fla_npu", "fla_npu.ops", "fla_npu.ops.ascendc")
    ),
    StandIn(
        target="cann_ops_transformer",
        source="cann_ops_transformer/__init__.py",
        reason="operators of CANN's with a Python package of their own, which PyPI has not; where prefill runs in "
        "another engine, vllm-ascend's quantised latent attention imports mla_prolog",
        does="mla_prolog, by what stands in for npu_mla_prolog_v3",
        version="0.30",
    ),
    StandIn(
        target="torch_npu.op_plugin.atb._atb_ops:npu::npu_mla_prolog_v3",
        source="cann_ops_transformer/prolog.py:mla_prolog_v3",
        reason="aclnnMlaPrologV3WeightNz is none of libopapi's operators here",
        does="the operators that it fuses, one by one",
        version="0.30",
    ),
    StandIn(
        target="torch_npu.op_plugin.atb._atb_ops:npu::npu_gather_pa_kv_cache",
        source="atb.py:gather_pa_kv_cache",
        reason="aclnnGatherPaKvCache is none of libopapi's operators here",
        does="reads the tokens of a block table's requests from the cache",
        version="0.30",
    ),
)


def for_version(version: str) -> tuple[StandIn, ...]:
    """Returns the stand-ins that a version of vllm-ascend needs."""
    return tuple(stand_in for stand_in in STAND_INS if version.startswith(stand_in.version))


def _installed_vllm_ascend() -> str:
    try:
        return importlib.metadata.version("vllm-ascend")
    except importlib.metadata.PackageNotFoundError:
        return ""


def install() -> None:
    """Lets imports in this process find the stand-ins. Imports nothing itself; calling it again changes
    nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Alias(importlib.abc.Loader):
    """Gives a module of this folder under another name; its own stays as it is, for its relative imports."""

    def __init__(self, source: str) -> None:
        self._name = _module_name(source)
        self._spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
        module.__loader__ = self._spec.loader if self._spec else None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are stand-ins, and lets those that contain one put it in after they have run."""

    def __init__(self) -> None:
        needed = for_version(_installed_vllm_ascend())
        self._modules = {s.target: s for s in needed if not s.attribute}
        self._contents: dict[str, list[StandIn]] = {}
        for stand_in in needed:
            if stand_in.attribute:
                self._contents.setdefault(stand_in.module, []).append(stand_in)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if stand_in := self._modules.get(fullname):
            return importlib.util.spec_from_loader(fullname, _Alias(stand_in.source))
        if not (stand_ins := self._contents.get(fullname)):
            return None

        def put_all(module: ModuleType) -> None:
            for stand_in in stand_ins:
                _put(module, stand_in)

        return after_import.find_spec(fullname, path, target, put_all)


def _put(module: ModuleType, stand_in: StandIn) -> None:
    """Raises AttributeError when the target is gone: a stand-in never misses in silence."""
    namespace, is_operator, target = stand_in.attribute.rpartition("::")
    if not is_operator:
        path, _, name = target.rpartition(".")
        owner: object = operator.attrgetter(path)(module) if path else module
        getattr(owner, name)
        setattr(owner, name, _ours(stand_in.source))
        return
    from . import operators

    if stand_in.source.startswith(f"{target}("):
        operators.declare(namespace, stand_in.source)
    else:
        operators.override(namespace, target, _ours(stand_in.source))


def _module_name(file: str) -> str:
    return f"{__package__}.{file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"


def _ours(source: str) -> Any:
    file, _, name = source.partition(":")
    return getattr(importlib.import_module(_module_name(file)), name)
