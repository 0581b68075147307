# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `attn_scatter` in vllm-ascend: what it puts into vLLM's decoder layers."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.rows.attn_scatter import (
    DEEPSEEK,
    FORWARD,
    MASK,
    MODELS,
    UNTIL,
    WHY_EMBEDDING,
    WHY_OWED,
    WHY_PARTS,
)
from vllm_ascend_ext.integration.upstream.seams.seam import ON_0_23, Seam, members

_WHY_KINDS = "modules of other classes, or that exchange rows in another way, are refused"
_QWEN = f"{MODELS}.qwen3_moe"
_NPU = ("npu",)
_MLA = "vllm_ascend.attention.mla_v1:AscendMLAImpl"
_SFA = "vllm_ascend.attention.sfa_v1:AscendSFAImpl"
_EXPERTS = "vllm_ascend.ops.fused_moe.fused_moe_0_23_0"
_ENDS = "vllm_ascend.ops.fused_moe.prepare_finalize:PrepareAndFinalizeWithAll2All"
_LINEAR = "vllm_ascend.ops.linear:AscendRowParallelLinear"
_EMBEDDING = "vllm_ascend.ops.vocab_parallel_embedding:AscendVocabParallelEmbedding"
_UNTIL = "vllm-ascend gathers once, after the projection, and tells shards from whole batches by their type"


def _ascend(target: str, why: str, parameters: tuple[str, ...] | None = None, until: str = _UNTIL) -> Seam:
    return Seam(target, "replace", "attn_scatter", _NPU, why, until, parameters, pairs=ON_0_23)


FORWARDS = tuple(
    _ascend(
        target,
        "below it vLLM calls what it has compiled, which is for steps that are not scattered",
        FORWARD,
        UNTIL,
    )
    for target in (
        f"{DEEPSEEK}:DeepseekV2ForCausalLM.forward",
        f"{MODELS}.glm4_moe:Glm4MoeForCausalLM.forward",
        f"{MODELS}.mixtral:MixtralForCausalLM.forward",
        f"{_QWEN}:Qwen3MoeForCausalLM.forward",
    )
)
REDUCE_RESULTS = _ascend(f"{_LINEAR}.reduce_results", WHY_OWED)
REDUCE_EXPERTS = _ascend(
    f"{_EXPERTS}:AscendMoERunner._maybe_reduce_final_output", WHY_OWED, ("states", "trunc_size")
)
FINALIZE = _ascend(
    f"{_ENDS}.finalize",
    "where rows are sent to experts, their results are this rank's rows of the addend, without a gather",
    ("hidden_states", "reduce_results", "padded_hidden_states_shape"),
)
SHARED_SUM = _ascend(f"{_EXPERTS}:tensor_model_parallel_all_reduce", WHY_OWED)
_WHY_PROJECTION = "the projection runs on the shard, before the attention"
PROJECTIONS = tuple(_ascend(f"{attention}.fused_qkv_a_proj", _WHY_PROJECTION) for attention in (_MLA, _SFA))
INDEXER_PROJECTION = _ascend(f"{_SFA}.wk_weights_proj", _WHY_PROJECTION)
ATTENTIONS = tuple(
    _ascend(
        f"{attention}.forward",
        "with FlashComm v1 it is given rows that are projected and gathered already",
        ("layer_name", "hidden_states", "kv_cache", "attn_metadata", "need_gather_q_kv", "output"),
    )
    for attention in (_MLA, _SFA)
)

ROWS = (
    *FORWARDS,
    REDUCE_RESULTS,
    REDUCE_EXPERTS,
    FINALIZE,
    SHARED_SUM,
    *PROJECTIONS,
    INDEXER_PROJECTION,
    *ATTENTIONS,
    *(
        row
        for owner, names, why in (
            (_MLA.partition(":")[0], ("AscendMLAImpl",), _WHY_KINDS),
            (_SFA.partition(":")[0], ("AscendSFAImpl",), _WHY_KINDS),
            (_MLA, ("enable_mlapo", "fa_quant_layer"), _WHY_KINDS),
            (_SFA, ("enable_mlapo", "has_indexer"), _WHY_KINDS),
            (
                "vllm_ascend.ops.mla:AscendMultiHeadLatentAttention",
                ("mla_attn", "is_vl_first_layer"),
                WHY_PARTS,
            ),
            ("vllm.model_executor.layers.attention.mla_attention:MLAAttention", ("impl",), WHY_PARTS),
            (f"{_EXPERTS}:AscendFusedMoE", ("runner",), WHY_PARTS),
            (f"{_QWEN}:Qwen3MoeAttention", ("qkv_proj",), WHY_PARTS),
            (_LINEAR.partition(":")[0], ("AscendRowParallelLinear", "AscendQKVParallelLinear"), _WHY_KINDS),
            ("vllm_ascend.ops.layernorm:AscendRMSNorm", ("bias",), "norms with a bias are refused"),
            (_EMBEDDING, ("forward_type", "shard_indices", "quant_method"), WHY_EMBEDDING),
            (
                "vllm.forward_context:ForwardContext",
                ("cudagraph_runtime_mode", "attn_metadata"),
                "whether the pass is a graph's",
            ),
            (_ENDS, ("tp_size", "tp_rank"), "which rows of the batch it has sent"),
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
            remove_when=_UNTIL,
            pairs=ON_0_23,
        )
    ),
    Seam(
        f"{_EMBEDDING}._get_masked_input_and_mask",
        "read",
        "attn_scatter",
        _NPU,
        WHY_EMBEDDING,
        _UNTIL,
        MASK,
        pairs=ON_0_23,
    ),
)
