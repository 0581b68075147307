# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of the CPU platform: layers and kernels that torch stands for."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import Seam, members

_CPU = ("cpu",)
_SOURCE = "https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/"
_MLA = "vllm.model_executor.layers.attention.mla_attention"
_MOE_METHOD = "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method:UnquantizedFusedMoEMethod"

PREFILL_BACKENDS = tuple(
    Seam(
        f"{module}:get_mla_prefill_backend",
        "replace",
        "cpu_platform",
        _CPU,
        "the selector falls back to FlashAttention when a device has no compute capability",
        "vLLM asks the platform for the prefill backend (get_mla_prefill_backend_cls)",
        ("vllm_config",),
        _SOURCE + "v1/attention/backends/mla/prefill/selector.py",
    )
    for module in (
        "vllm.v1.attention.backends.mla.prefill.selector",
        "vllm.v1.attention.backends.mla.prefill",
        _MLA,
    )
)
MAP_AND_RECORD = Seam(
    "vllm.model_executor.layers.fused_moe.router.base_router:eplb_map_to_physical_and_record",
    "replace",
    "cpu_platform",
    _CPU,
    "off CUDA, vLLM's version neither maps logical to physical experts nor counts them",
    "vLLM ships a torch version for other devices",
    ("topk_ids", "expert_load_view", "logical_to_physical_map", "logical_replica_count", "record_enabled"),
)
HAS_TRITON = Seam(
    "vllm.v1.sample.ops.topk_topp_sampler:HAS_TRITON",
    "replace",
    "cpu_platform",
    _CPU,
    "with CUDA_VISIBLE_DEVICES='' vLLM takes Triton for usable; top-k and top-p then fail",
    "vLLM asks Triton for a driver also when CUDA_VISIBLE_DEVICES is empty",
    None,
    _SOURCE + "triton_utils/importing.py",
)
KERNELS = {
    name: Seam(
        f"vllm.utils.cpu_triton_utils:{name}",
        "replace",
        "cpu_platform",
        _CPU,
        "a Triton kernel whose CPU stand-in calls the compiled extension (and drops some results)",
        "vLLM's CPU stand-ins are plain torch",
    )
    for name in (
        "compute_slot_mapping_kernel",
        "copy_and_expand_eagle_inputs_kernel",
        "eagle_prepare_inputs_padded_kernel",
        "eagle_prepare_next_token_padded_kernel",
        "eagle_step_slot_mapping_metadata_kernel",
        "rejection_greedy_sample_kernel",
        "rejection_random_sample_kernel",
        "expand_kernel",
        "sample_recovered_tokens_kernel",
    )
}
_WHY_ATTENTION = "vLLM refuses MLA on the CPU; ours runs every request through the absorbed form"
_UNTIL_ATTENTION = "vLLM has MLA on the CPU"

ROWS = (
    *PREFILL_BACKENDS,
    MAP_AND_RECORD,
    HAS_TRITON,
    *KERNELS.values(),
    Seam(
        "vllm.v1.worker.cpu_model_runner:CPUModelRunner._postprocess_triton",
        "read",
        "cpu_platform",
        _CPU,
        "copies the kernels' names to the modules that launch them, after ours have taken their place",
        "vLLM's CPU stand-ins are plain torch",
    ),
    *members(
        f"{_MLA}:MLACommonBackend",
        {"get_name": (), "get_builder_cls": (), "get_supported_head_sizes": ()},
        "override",
        "cpu_platform",
        _CPU,
        why=_WHY_ATTENTION,
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        "vllm.v1.attention.backend:AttentionBackend",
        {"get_impl_cls": (), "supports_block_size": ("block_size",), "supported_dtypes": None},
        "override",
        "cpu_platform",
        _CPU,
        why=_WHY_ATTENTION,
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        "vllm.v1.attention.backend:AttentionMetadataBuilder",
        {
            "__init__": ("kv_cache_spec", "layer_names", "vllm_config", "device"),
            "build": ("common_prefix_len", "common_attn_metadata", "fast_build"),
            "reorder_batch_threshold": None,
        },
        "override",
        "cpu_platform",
        _CPU,
        why=_WHY_ATTENTION,
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        "vllm.v1.attention.backend:MLAAttentionImpl",
        {
            "do_kv_cache_update": (
                "kv_c_normed",
                "k_pe",
                "kv_cache",
                "slot_mapping",
                "kv_cache_dtype",
                "k_scale",
            ),
            "forward_mqa": ("q", "kv_c_and_k_pe_cache", "attn_metadata", "layer"),
        },
        "override",
        "cpu_platform",
        _CPU,
        why=_WHY_ATTENTION,
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        f"{_MLA}:MLACommonImpl",
        {"forward_mqa": ("q", "kv_c_and_k_pe_cache", "attn_metadata", "layer")},
        "override",
        "cpu_platform",
        _CPU,
        why=_WHY_ATTENTION,
        remove_when=_UNTIL_ATTENTION,
    ),
    Seam(
        "vllm.v1.attention.backend:AttentionImplBase.can_return_lse_for_decode",
        "override",
        "cpu_platform",
        _CPU,
        _WHY_ATTENTION,
        _UNTIL_ATTENTION,
    ),
    *members(
        f"{_MLA}:MLACommonMetadata",
        {
            "num_reqs": None,
            "max_query_len": None,
            "max_seq_len": None,
            "num_actual_tokens": None,
            "query_start_loc": None,
            "slot_mapping": None,
            "num_decodes": None,
            "num_decode_tokens": None,
            "num_prefills": None,
            "decode": None,
        },
        "read",
        "cpu_platform",
        _CPU,
        why="every request goes into the decode section of vLLM's own metadata",
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        f"{_MLA}:MLACommonDecodeMetadata",
        {"block_table": None, "seq_lens": None, "dcp_tot_seq_lens": None},
        "read",
        "cpu_platform",
        _CPU,
        why="every request goes into the decode section of vLLM's own metadata",
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        "vllm.v1.attention.backends.mla.prefill.base:MLAPrefillBackend",
        {
            "get_name": (),
            "run_prefill_new_tokens": ("q", "k", "v"),
            "run_prefill_context_chunk": (),
            "supported_dtypes": None,
        },
        "override",
        "cpu_platform",
        _CPU,
        why="the layer is given a prefill backend, which our metadata never asks for anything",
        remove_when=_UNTIL_ATTENTION,
    ),
    *members(
        _MOE_METHOD,
        {
            "is_monolithic": None,
            "supports_eplb": None,
            "process_weights_after_loading": ("layer",),
            "get_fused_moe_quant_config": ("layer",),
            "apply": ("layer", "x", "topk_weights", "topk_ids", "shared_experts", "shared_experts_input"),
        },
        "override",
        "cpu_platform",
        _CPU,
        why="vLLM's CPU method routes by itself and ignores the expert map",
        remove_when="vLLM's CPU experts take routed ids and an expert map",
    ),
    *members(
        "vllm.model_executor.custom_op:CustomOp",
        {"register_oot": ("_decorated_op_cls", "name")},
        "read",
        "cpu_platform",
        _CPU,
        why="vLLM's own registry, by which it builds our method",
        remove_when="never: it is vLLM's place for that",
    ),
    Seam(
        "vllm.model_executor.custom_op:op_registry_oot",
        "read",
        "cpu_platform",
        _CPU,
        "says whether our method is registered already",
        "the registry takes a second registration of the same class",
    ),
)
