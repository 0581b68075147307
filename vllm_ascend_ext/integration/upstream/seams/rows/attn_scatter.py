# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `attn_scatter`: decoder layers that are taken apart, with what vllm-ascend puts into them."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, ON_0_23, Seam, members

_DEVICES = ("cpu", "cuda")
_DEEPSEEK = "vllm.model_executor.models.deepseek_v2"
_MODELS = "vllm.model_executor.models"
_QWEN = f"{_MODELS}.qwen3_moe"
_RUNNER = "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner"
_EMBEDDING = "vllm.model_executor.layers.vocab_parallel_embedding"

_UNTIL = "vLLM's models can run their decoder layers on rows that are scattered among the ranks"
_FORWARD = ("input_ids", "positions", "intermediate_tensors", "inputs_embeds")
FORWARDS = tuple(
    Seam(
        target,
        "replace",
        "attn_scatter",
        _DEVICES,
        "the model runs its layers itself; ours runs the same layers on scattered rows",
        _UNTIL,
        _FORWARD,
    )
    for target in (
        f"{_DEEPSEEK}:DeepseekV2Model.forward",
        f"{_MODELS}.ernie45_moe:Ernie4_5_MoeModel.forward",
        f"{_MODELS}.glm4_moe:Glm4MoeModel.forward",
        f"{_MODELS}.llama:LlamaModel.forward",
        f"{_MODELS}.minimax_m2:MiniMaxM2Model.forward",
        f"{_MODELS}.mixtral:MixtralModel.forward",
        f"{_MODELS}.olmoe:OlmoeModel.forward",
        f"{_MODELS}.qwen2:Qwen2Model.forward",  # and Qwen3's, which derives from it
        f"{_MODELS}.qwen2_moe:Qwen2MoeModel.forward",
        f"{_MODELS}.qwen3_moe:Qwen3MoeModel.forward",
    )
)
_MODEL_PARTS = ("layers", "norm", "embed_tokens", "embed_input_ids")
_LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm")
_EXPERT_PARTS = ("experts", "gate")
# module, the classes of a family, and what is read of their instances
_FAMILIES = tuple(
    (f"{_MODELS}.{module}:{owner}", names)
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
_WHY_OWED = "for a scattered step the sum over the ranks is owed, and done by our collective"
REDUCE_RESULTS = Seam(
    "vllm.model_executor.layers.linear:RowParallelLinear.reduce_results",
    "replace",
    "attn_scatter",
    _DEVICES,
    _WHY_OWED,
    _UNTIL,
)
REDUCE_EXPERTS = Seam(
    f"{_RUNNER}._maybe_reduce_final_output",
    "replace",
    "attn_scatter",
    _DEVICES,
    _WHY_OWED,
    _UNTIL,
    ("states", "trunc_size"),
)
GATE = Seam(
    f"{_RUNNER}.gate",
    "replace",
    "attn_scatter",
    _DEVICES,
    "the router's logits are computed on the shard and given to the experts",
    _UNTIL,
)
PROJECTION = Seam(
    "vllm.model_executor.layers.mla:MultiHeadLatentAttentionWrapper.fused_qkv_a_proj",
    "replace",
    "attn_scatter",
    _DEVICES,
    "the projection runs on the shard, before the attention",
    _UNTIL,
)
_MASK = (
    "input_",
    "org_vocab_start_index",
    "org_vocab_end_index",
    "num_org_vocab_padding",
    "added_vocab_start_index",
    "added_vocab_end_index",
)
_WHY_EMBEDDING = "the embedding's own rows, before its sum over the ranks"
_WHY_KINDS = "modules of other classes, or that exchange rows in another way, are refused"
_WHY_PARTS = "the parts of a decoder layer that we run one by one"

_NPU = ("npu",)
_ASCEND_MLA = "vllm_ascend.attention.mla_v1:AscendMLAImpl"
_ASCEND_SFA = "vllm_ascend.attention.sfa_v1:AscendSFAImpl"
_ASCEND_EXPERTS = "vllm_ascend.ops.fused_moe.fused_moe_0_23_0"
_ASCEND_ENDS = "vllm_ascend.ops.fused_moe.prepare_finalize:PrepareAndFinalizeWithAll2All"
_ASCEND_LINEAR = "vllm_ascend.ops.linear:AscendRowParallelLinear"
_ASCEND_EMBEDDING = "vllm_ascend.ops.vocab_parallel_embedding:AscendVocabParallelEmbedding"
_UNTIL_ASCEND = "vllm-ascend gathers once, after the projection, and tells shards from whole batches by their type"


def _ascend(target: str, why: str, parameters: tuple[str, ...] | None = None, until: str = _UNTIL_ASCEND) -> Seam:
    return Seam(target, "replace", "attn_scatter", _NPU, why, until, parameters, pairs=ON_0_23)


ASCEND_FORWARDS = tuple(
    _ascend(
        target,
        "below it vLLM calls what it has compiled, which is for steps that are not scattered",
        _FORWARD,
        _UNTIL,
    )
    for target in (
        f"{_DEEPSEEK}:DeepseekV2ForCausalLM.forward",
        f"{_MODELS}.glm4_moe:Glm4MoeForCausalLM.forward",
        f"{_MODELS}.mixtral:MixtralForCausalLM.forward",
        f"{_QWEN}:Qwen3MoeForCausalLM.forward",
    )
)
ASCEND_REDUCE_RESULTS = _ascend(f"{_ASCEND_LINEAR}.reduce_results", _WHY_OWED)
ASCEND_REDUCE_EXPERTS = _ascend(
    f"{_ASCEND_EXPERTS}:AscendMoERunner._maybe_reduce_final_output", _WHY_OWED, ("states", "trunc_size")
)
ASCEND_FINALIZE = _ascend(
    f"{_ASCEND_ENDS}.finalize",
    "where rows are sent to experts, their results are this rank's rows of the addend, without a gather",
    ("hidden_states", "reduce_results", "padded_hidden_states_shape"),
)
ASCEND_SHARED_SUM = _ascend(f"{_ASCEND_EXPERTS}:tensor_model_parallel_all_reduce", _WHY_OWED)
_WHY_PROJECTION = "the projection runs on the shard, before the attention"
ASCEND_PROJECTIONS = tuple(
    _ascend(f"{attention}.fused_qkv_a_proj", _WHY_PROJECTION) for attention in (_ASCEND_MLA, _ASCEND_SFA)
)
ASCEND_INDEXER_PROJECTION = _ascend(f"{_ASCEND_SFA}.wk_weights_proj", _WHY_PROJECTION)
ASCEND_ATTENTIONS = tuple(
    _ascend(
        f"{attention}.forward",
        "with FlashComm v1 it is given rows that are projected and gathered already",
        ("layer_name", "hidden_states", "kv_cache", "attn_metadata", "need_gather_q_kv", "output"),
    )
    for attention in (_ASCEND_MLA, _ASCEND_SFA)
)

ROWS = (
    *FORWARDS,
    REDUCE_RESULTS,
    REDUCE_EXPERTS,
    GATE,
    PROJECTION,
    *ASCEND_FORWARDS,
    ASCEND_REDUCE_RESULTS,
    ASCEND_REDUCE_EXPERTS,
    ASCEND_FINALIZE,
    ASCEND_SHARED_SUM,
    *ASCEND_PROJECTIONS,
    ASCEND_INDEXER_PROJECTION,
    *ASCEND_ATTENTIONS,
    Seam(
        f"{_RUNNER}._fused_output_is_reduced",
        "read",
        "attn_scatter",
        _DEVICES,
        "experts that sum within their kernel are refused",
        _UNTIL,
    ),
    Seam(f"{_RUNNER}.is_internal_router", "read", "attn_scatter", _DEVICES, _WHY_PARTS, _UNTIL),
    *(
        row
        for owner, names in _FAMILIES
        for row in members(
            owner,
            dict.fromkeys(names),
            "read",
            "attn_scatter",
            DEVICES,
            why=_WHY_PARTS,
            remove_when=_UNTIL,
        )
    ),
    *members(
        f"{_DEEPSEEK}:DeepseekV2MLAAttention",
        {"fused_qkv_a_proj": None, "mla_attn": None, "forward": ("positions", "hidden_states", "llama_4_scaling")},
        "read",
        "attn_scatter",
        DEVICES,
        why=_WHY_PARTS,
        remove_when=_UNTIL,
    ),
    *members(
        f"{_EMBEDDING}:VocabParallelEmbedding",
        {"shard_indices": None, "quant_method": None},
        "read",
        "attn_scatter",
        _DEVICES,
        why=_WHY_EMBEDDING,
        remove_when=_UNTIL,
    ),
    Seam(
        f"{_EMBEDDING}:get_masked_input_and_mask",
        "read",
        "attn_scatter",
        _DEVICES,
        _WHY_EMBEDDING,
        _UNTIL,
        _MASK,
    ),
    *(
        row
        for owner, names, why in (
            (_ASCEND_MLA.partition(":")[0], ("AscendMLAImpl",), _WHY_KINDS),
            (_ASCEND_SFA.partition(":")[0], ("AscendSFAImpl",), _WHY_KINDS),
            (_ASCEND_MLA, ("enable_mlapo",), _WHY_KINDS),
            (_ASCEND_SFA, ("enable_mlapo", "has_indexer"), _WHY_KINDS),
            (
                "vllm_ascend.ops.mla:AscendMultiHeadLatentAttention",
                ("mla_attn", "is_vl_first_layer"),
                _WHY_PARTS,
            ),
            ("vllm.model_executor.layers.attention.mla_attention:MLAAttention", ("impl",), _WHY_PARTS),
            (f"{_ASCEND_EXPERTS}:AscendFusedMoE", ("runner",), _WHY_PARTS),
            (f"{_QWEN}:Qwen3MoeAttention", ("qkv_proj",), _WHY_PARTS),
            (_ASCEND_LINEAR.partition(":")[0], ("AscendRowParallelLinear", "AscendQKVParallelLinear"), _WHY_KINDS),
            ("vllm_ascend.ops.layernorm:AscendRMSNorm", ("bias",), "norms with a bias are refused"),
            (_ASCEND_EMBEDDING, ("forward_type", "shard_indices", "quant_method"), _WHY_EMBEDDING),
            (
                "vllm.forward_context:ForwardContext",
                ("cudagraph_runtime_mode", "attn_metadata"),
                "whether the pass is a graph's",
            ),
            (_ASCEND_ENDS, ("tp_size", "tp_rank"), "which rows of the batch it has sent"),
            ("vllm_ascend.ascend_forward_context", ("MoECommType", "_EXTRA_CTX"), "how rows reach the experts"),
            ("vllm_ascend.utils", ("enable_sp",), "whether FlashComm v1 divides the rows"),
        )
        for row in members(
            owner,
            dict.fromkeys(names),
            "read",
            "attn_scatter",
            _NPU,
            why=why,
            remove_when=_UNTIL_ASCEND,
            pairs=ON_0_23,
        )
    ),
    Seam(
        f"{_ASCEND_EMBEDDING}._get_masked_input_and_mask",
        "read",
        "attn_scatter",
        _NPU,
        _WHY_EMBEDDING,
        _UNTIL_ASCEND,
        _MASK,
        pairs=ON_0_23,
    ),
)
