# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `attn_scatter` in vLLM: decoder layers that are taken apart."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, Seam, members

_DEVICES = ("cpu", "cuda")
DEEPSEEK = "vllm.model_executor.models.deepseek_v2"
MODELS = "vllm.model_executor.models"
_RUNNER = "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner"
_EMBEDDING = "vllm.model_executor.layers.vocab_parallel_embedding"

UNTIL = "vLLM's models can run their decoder layers on rows that are scattered among the ranks"
FORWARD = ("input_ids", "positions", "intermediate_tensors", "inputs_embeds")
FORWARDS = tuple(
    Seam(
        target,
        "replace",
        "attn_scatter",
        _DEVICES,
        "the model runs its layers itself; ours runs the same layers on scattered rows",
        UNTIL,
        FORWARD,
    )
    for target in (
        f"{DEEPSEEK}:DeepseekV2Model.forward",
        f"{MODELS}.ernie45_moe:Ernie4_5_MoeModel.forward",
        f"{MODELS}.glm4_moe:Glm4MoeModel.forward",
        f"{MODELS}.llama:LlamaModel.forward",
        f"{MODELS}.minimax_m2:MiniMaxM2Model.forward",
        f"{MODELS}.mixtral:MixtralModel.forward",
        f"{MODELS}.olmoe:OlmoeModel.forward",
        f"{MODELS}.qwen2:Qwen2Model.forward",  # and Qwen3's, which derives from it
        f"{MODELS}.qwen2_moe:Qwen2MoeModel.forward",
        f"{MODELS}.qwen3_moe:Qwen3MoeModel.forward",
    )
)
_MODEL_PARTS = ("layers", "norm", "embed_tokens", "embed_input_ids")
_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm")
_EXPERT_PARTS = ("experts", "gate")
# module, the classes of a family, and what is read of their instances
_FAMILIES = tuple(
    (f"{MODELS}.{module}:{owner}", names)
    for module, classes in {
        "deepseek_v2": {
            "DeepseekV2Model": _MODEL_PARTS,
            "DeepseekV2DecoderLayer": (*_LAYER_PARTS, "mlp"),
            "DeepseekV2MLAAttention": ("o_proj",),
            "DeepseekV2MoE": (*_EXPERT_PARTS, "is_sequence_parallel"),
        },
        "ernie45_moe": {
            "Ernie4_5_MoeModel": _MODEL_PARTS,
            "Ernie4_5_MoeDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "Ernie4_5_MoeAttention": ("o_proj",),
            "Ernie4_5_MoeMoE": _EXPERT_PARTS,
        },
        "glm4_moe": {
            "Glm4MoeModel": _MODEL_PARTS,
            "Glm4MoeDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "Glm4MoeAttention": ("o_proj",),
            "Glm4MoE": _EXPERT_PARTS,
        },
        "llama": {
            "LlamaModel": _MODEL_PARTS,
            "LlamaDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "LlamaAttention": ("o_proj",),
            "LlamaMLP": ("down_proj",),
        },
        "minimax_m2": {
            "MiniMaxM2Model": _MODEL_PARTS,
            "MiniMaxM2DecoderLayer": (*_LAYER_PARTS, "block_sparse_moe"),
            "MiniMaxM2Attention": ("o_proj",),
            "MiniMaxM2MoE": _EXPERT_PARTS,
        },
        "mixtral": {
            "MixtralModel": _MODEL_PARTS,
            "MixtralDecoderLayer": (*_LAYER_PARTS, "block_sparse_moe"),
            "MixtralAttention": ("o_proj",),
            "MixtralMoE": _EXPERT_PARTS,
        },
        "olmoe": {
            "OlmoeModel": _MODEL_PARTS,
            "OlmoeDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "OlmoeAttention": ("o_proj",),
            "OlmoeMoE": _EXPERT_PARTS,
        },
        "qwen2": {
            "Qwen2Model": _MODEL_PARTS,
            "Qwen2DecoderLayer": (*_LAYER_PARTS, "mlp"),
            "Qwen2Attention": ("o_proj",),
            "Qwen2MLP": ("down_proj",),
        },
        "qwen2_moe": {
            "Qwen2MoeModel": _MODEL_PARTS,
            "Qwen2MoeDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "Qwen2MoeAttention": ("o_proj",),
            "Qwen2MoeSparseMoeBlock": _EXPERT_PARTS,
        },
        "qwen3": {"Qwen3DecoderLayer": (*_LAYER_PARTS, "mlp"), "Qwen3Attention": ("o_proj",)},
        "qwen3_moe": {
            "Qwen3MoeModel": _MODEL_PARTS,
            "Qwen3MoeDecoderLayer": (*_LAYER_PARTS, "mlp"),
            "Qwen3MoeAttention": ("o_proj",),
            "Qwen3MoeSparseMoeBlock": (*_EXPERT_PARTS, "is_sequence_parallel"),
        },
    }.items()
    for owner, names in classes.items()
)
WHY_OWED = "for a scattered step the sum over the ranks is owed, and done by our collective"
REDUCE_RESULTS = Seam(
    "vllm.model_executor.layers.linear:RowParallelLinear.reduce_results",
    "replace",
    "attn_scatter",
    _DEVICES,
    WHY_OWED,
    UNTIL,
)
REDUCE_EXPERTS = Seam(
    f"{_RUNNER}._maybe_reduce_final_output",
    "replace",
    "attn_scatter",
    _DEVICES,
    WHY_OWED,
    UNTIL,
    ("states", "trunc_size"),
)
GATE = Seam(
    f"{_RUNNER}.gate",
    "replace",
    "attn_scatter",
    _DEVICES,
    "the router's logits are computed on the shard and given to the experts",
    UNTIL,
)
PROJECTION = Seam(
    "vllm.model_executor.layers.mla:MultiHeadLatentAttentionWrapper.fused_qkv_a_proj",
    "replace",
    "attn_scatter",
    _DEVICES,
    "the projection runs on the shard, before the attention",
    UNTIL,
)
MASK = (
    "input_",
    "org_vocab_start_index",
    "org_vocab_end_index",
    "num_org_vocab_padding",
    "added_vocab_start_index",
    "added_vocab_end_index",
)
WHY_EMBEDDING = "the embedding's own rows, before its sum over the ranks"
WHY_PARTS = "the parts of a decoder layer that we run one by one"

ROWS = (
    *FORWARDS,
    REDUCE_RESULTS,
    REDUCE_EXPERTS,
    GATE,
    PROJECTION,
    Seam(
        f"{_RUNNER}._fused_output_is_reduced",
        "read",
        "attn_scatter",
        _DEVICES,
        "experts that sum within their kernel are refused",
        UNTIL,
    ),
    Seam(f"{_RUNNER}.is_internal_router", "read", "attn_scatter", _DEVICES, WHY_PARTS, UNTIL),
    *(
        row
        for owner, names in _FAMILIES
        for row in members(
            owner,
            dict.fromkeys(names),
            "read",
            "attn_scatter",
            DEVICES,
            why=WHY_PARTS,
            remove_when=UNTIL,
        )
    ),
    *members(
        f"{DEEPSEEK}:DeepseekV2MLAAttention",
        {"fused_qkv_a_proj": None, "mla_attn": None, "forward": ("positions", "hidden_states", "llama_4_scaling")},
        "read",
        "attn_scatter",
        DEVICES,
        why=WHY_PARTS,
        remove_when=UNTIL,
    ),
    *members(
        f"{_EMBEDDING}:VocabParallelEmbedding",
        {"shard_indices": None, "quant_method": None},
        "read",
        "attn_scatter",
        _DEVICES,
        why=WHY_EMBEDDING,
        remove_when=UNTIL,
    ),
    Seam(
        f"{_EMBEDDING}:get_masked_input_and_mask",
        "read",
        "attn_scatter",
        _DEVICES,
        WHY_EMBEDDING,
        UNTIL,
        MASK,
    ),
)
