# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `eplb_load`: where layers route, what of a step is real, and the device's EPLB."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, ON_0_23, Seam, members

_LAYER = "vllm.model_executor.layers.fused_moe.layer:FusedMoE"
_ASCEND_MOE = "vllm_ascend.ops.fused_moe.fused_moe"
_STATE = "vllm.distributed.eplb.eplb_state:EplbState"
_UPDATOR = "vllm_ascend.eplb.eplb_updator:EplbUpdator"
_RUNNER = "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner"
_FROM_VLLM = ("cpu", "cuda")
_UNTIL_LISTENER = "vLLM hands routed ids to a listener"

_WHY_FEED = "EPLB counts padding and dummy rows, and waits for its sums; no setting gives it other counts"
_UNTIL_FEED = "EPLB takes counts from outside"
EPLB_STATE = Seam(
    "vllm.v1.worker.gpu_model_runner:EplbState",
    "replace",
    "eplb_load",
    _FROM_VLLM,
    "the runner builds the class of this name",
    _UNTIL_FEED,
    ("parallel_config", "device"),
)
EPLB_UPDATOR = Seam(
    "vllm_ascend.worker.model_runner_v1:EplbUpdator",
    "replace",
    "eplb_load",
    ("npu",),
    "the runner builds the class of this name",
    _UNTIL_FEED,
    ("eplb_config", "loader", "eplb_process", "process"),
)
POLICY_ANSWERS = Seam(
    "vllm_ascend.eplb.core.eplb_worker:EplbProcess.block_update_q",
    "replace",
    "eplb_load",
    ("npu",),
    "the updator waits on this queue for ever, also when the policy process has ended",
    "vllm-ascend waits with a deadline",
)
LAYER_COUNTS = Seam(
    "vllm_ascend.ops.fused_moe.fused_moe_0_23_0:AscendFusedMoE.dynamic_eplb",
    "replace",
    "eplb_load",
    ("npu",),
    "a layer's own counting is off while ours feeds the policy",
    _UNTIL_FEED,
    pairs=ON_0_23,
)
_WHY_CAPTURE = (
    "layers of vllm-ascend route without vLLM's router objects; this is what they offer their routing to, layer "
    "by layer, where the model's configuration says so"
)
_UNTIL_CAPTURE = "vllm-ascend routes through vLLM's `BaseRouter`, whose hook `vllm_routing` uses"
CAPTURER = Seam(
    f"{_ASCEND_MOE}:AscendUnquantizedFusedMoEMethod.apply",
    "mark",
    "eplb_load",
    ("npu",),
    _WHY_CAPTURE,
    _UNTIL_CAPTURE,
    ("layer",),
    pairs=ON_0_23,
)
LAYER_CONFIG, MODEL_CONFIG, RETURNS_EXPERTS = (
    Seam(target, "replace", "eplb_load", ("npu",), _WHY_CAPTURE, _UNTIL_CAPTURE, pairs=ON_0_23)
    for target in (
        f"{_LAYER}.vllm_config",
        "vllm.config.vllm:VllmConfig.model_config",
        "vllm.config.model:ModelConfig.enable_return_routed_experts",
    )
)
_PROPOSER = "vllm_ascend.spec_decode.llm_base_proposer:AscendSpecDecodeBaseProposer"
_WHY_DRAFTS = "a captured run of drafts makes no host call between its passes, so their rows are told before it"
_UNTIL_DRAFTS = "the proposer has a hook before each run"
DRAFT_RUN = Seam(f"{_PROPOSER}._runnable", "replace", "eplb_load", ("npu",), _WHY_DRAFTS, _UNTIL_DRAFTS)
_WHY_SHOW = "a quantised method routes by this function of its module and offers what it routed to nobody"
_METHODS = "vllm_ascend.quantization.methods"
SELECT_W8A8, SELECT_W4A8, SELECT_W4A16 = (
    Seam(
        f"{_METHODS}.{module}:select_experts",
        "replace",
        "eplb_load",
        ("npu",),
        _WHY_SHOW,
        _UNTIL_CAPTURE,
        (),
        pairs=ON_0_23,
    )
    for module in ("w8a8_dynamic", "w4a8", "w4a16")
)
QUANTISED_APPLY = Seam(
    "vllm_ascend.quantization.method_adapters:AscendFusedMoEMethod.apply",
    "wrap",
    "eplb_load",
    ("npu",),
    "the function by which a quantised method routes is not told for which layer",
    _UNTIL_CAPTURE,
    (),
    pairs=ON_0_23,
)

ROWS = (
    DRAFT_RUN,
    Seam(
        f"{_PROPOSER}._run_merged_draft",
        "read",
        "eplb_load",
        ("npu",),
        _WHY_DRAFTS,
        _UNTIL_DRAFTS,
        ("num_input_tokens", "batch_size", "num_tokens"),
    ),
    EPLB_STATE,
    EPLB_UPDATOR,
    POLICY_ANSWERS,
    LAYER_COUNTS,
    CAPTURER,
    LAYER_CONFIG,
    MODEL_CONFIG,
    RETURNS_EXPERTS,
    SELECT_W8A8,
    SELECT_W4A8,
    SELECT_W4A16,
    QUANTISED_APPLY,
    *members(
        _STATE,
        {
            "step": ("is_dummy", "is_profile", "log_stats"),
            "rearrange": ("is_profile", "rank_mapping"),
            "_allreduce_list": ("tensor_list",),
            "_should_record_current_step": ("log_stats",),
        },
        "override",
        "eplb_load",
        _FROM_VLLM,
        why=_WHY_FEED,
        remove_when=_UNTIL_FEED,
    ),
    *members(
        _STATE,
        {
            "model_states": None,
            "should_record_tensor": None,
            "expert_rearrangement_step_interval": None,
            "expert_rearrangement_step": None,
            "expert_load_window_size": None,
            "device": None,
        },
        "read",
        "eplb_load",
        _FROM_VLLM,
        why="says when the next rearrangement is, and for which models",
        remove_when=_UNTIL_FEED,
    ),
    *members(
        "vllm.distributed.eplb.eplb_state:EplbModelState",
        {"physical_to_logical_map": None, "model": None},
        "read",
        "eplb_load",
        _FROM_VLLM,
        why="the report shows where experts are",
        remove_when="EPLB tells its placements",
    ),
    Seam(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner.eplb_state",
        "read",
        "eplb_load",
        _FROM_VLLM,
        "the state that the runner has built",
        _UNTIL_FEED,
    ),
    *members(
        _UPDATOR,
        {
            "set_adaptor": ("adaptor",),
            "forward_end": ("eplb_heat_collection_status",),
            "compute_and_set_moe_load": (),
            "wakeup_eplb_worker": (),
        },
        "override",
        "eplb_load",
        ("npu",),
        why=_WHY_FEED,
        remove_when=_UNTIL_FEED,
    ),
    *members(
        _UPDATOR,
        {
            "cur_iterations": None,
            "expert_heat_collection_interval": None,
            "eplb_process": None,
            "process": None,
            "adaptor": None,
            "shared_dict": None,
        },
        "read",
        "eplb_load",
        ("npu",),
        why="says when the policy process is woken, and what it reads",
        remove_when=_UNTIL_FEED,
    ),
    Seam(
        "vllm_ascend.eplb.adaptor.vllm_adaptor:VllmEplbAdaptor.clear_all_moe_loads",
        "read",
        "eplb_load",
        ("npu",),
        "ends a cycle early, as the updator ends a whole one",
        "the policies leave a placement that is as good as any",
        (),
    ),
    Seam(
        "vllm_ascend.eplb.adaptor.vllm_adaptor:VllmEplbAdaptor.moe_layers",
        "read",
        "eplb_load",
        ("npu",),
        "the layers that are balanced",
        _UNTIL_FEED,
    ),
    Seam(
        "vllm_ascend.worker.model_runner_v1:NPUModelRunner.eplb_updator",
        "read",
        "eplb_load",
        ("npu",),
        "the updator that the runner has built",
        _UNTIL_FEED,
    ),
    Seam(
        "vllm_ascend.ops.fused_moe.fused_moe_0_23_0:AscendFusedMoE.forward_impl",
        "read",
        "eplb_load",
        ("npu",),
        "a layer that overrides it routes elsewhere and is refused",
        _UNTIL_CAPTURE,
        pairs=ON_0_23,
    ),
    Seam(
        "vllm_ascend.ascend_forward_context:_EXTRA_CTX",
        "read",
        "eplb_load",
        ("npu",),
        "says by which dispatch this step's rows travel",
        _UNTIL_CAPTURE,
    ),
    *members(
        _LAYER,
        {
            "forward": ("hidden_states", "router_logits"),
            "quant_method": None,
            "router": None,
            "runner": None,
            "moe_config": None,
            "logical_num_experts": None,
            "top_k": None,
        },
        "read",
        "eplb_load",
        DEVICES,
        why="says whether a layer routes by its router, and among how many experts",
        remove_when=_UNTIL_LISTENER,
        pairs=ON_0_23,
    ),
    Seam(
        f"{_RUNNER}.do_naive_dispatch_combine",
        "read",
        "eplb_load",
        _FROM_VLLM,
        "says whether the rows are all replicas' or this rank's own",
        _UNTIL_LISTENER,
    ),
    Seam(
        "vllm.forward_context:DPMetadata.get_chunk_sizes_across_dp_rank",
        "read",
        "eplb_load",
        _FROM_VLLM,
        "says which of all replicas' rows are this rank's own",
        _UNTIL_LISTENER,
        (),
    ),
    *members(
        "vllm.forward_context:ForwardContext",
        {"attn_metadata": None, "dp_metadata": None},
        "read",
        "eplb_load",
        DEVICES,
        why="tells passes of the draft model apart, and how many of their rows are real",
        remove_when="the drafter has a hook before each pass",
    ),
)
