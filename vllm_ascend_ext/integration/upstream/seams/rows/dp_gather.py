# SPDX-License-Identifier: Apache-2.0
"""Lists the seams of `dp_gather`: where layers exchange rows among replicas."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, Seam, members

_MANAGER = "vllm.distributed.device_communicators.all2all:AgRsAll2AllManager"
_RUNNER = "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner"
_ALL_GATHER = "vllm_ascend.ops.fused_moe.prepare_finalize:PrepareAndFinalizeWithAllGather"
_VLLM_DEVICES = ("cpu", "cuda")

_WHY = "vLLM pads or gathers every replica's rows by one fixed rule; ours are exchanged by the plan of the pass"
_UNTIL = "vLLM's all-to-all managers can be registered by name, and tell of a layer's begin and end"
MANAGER = Seam(
    "vllm.distributed.device_communicators.base_device_communicator:DeviceCommunicatorBase.all2all_manager",
    "replace",
    "dp_gather",
    _VLLM_DEVICES,
    _WHY,
    _UNTIL,
)
SIZES_CONTEXT = Seam(
    f"{_RUNNER}._sequence_parallel_context",
    "wrap",
    "dp_gather",
    _VLLM_DEVICES,
    "the plan of a layer is in force from here to the layer's end",
    _UNTIL,
    (),
)
ROUTING = Seam(
    "vllm.model_executor.layers.fused_moe.router.base_router:BaseRouter._compute_routing",
    "wrap",
    "dp_gather",
    _VLLM_DEVICES,
    "rows of padding must reach no expert, and routers know none",
    "vLLM's routers leave out rows that are marked as padding",
    ("hidden_states", "router_logits"),
)
_WHY_ASCEND = "vllm-ascend's all-gather dispatch pads every rank's rows and lets the experts work on the padding"
_UNTIL_ASCEND = "vllm-ascend dispatches through vLLM's all-to-all managers"
PREPARE = Seam(
    f"{_ALL_GATHER}._prepare_with_dp_group",
    "replace",
    "dp_gather",
    ("npu",),
    _WHY_ASCEND,
    _UNTIL_ASCEND,
    ("hidden_states", "router_logits", "enable_shared_expert_dp", "replace_allreduce", "quant_type"),
)
FINALIZE = Seam(
    f"{_ALL_GATHER}._finalize_with_dp_group",
    "replace",
    "dp_gather",
    ("npu",),
    _WHY_ASCEND,
    _UNTIL_ASCEND,
    ("hidden_states", "reduce_results"),
)
FORWARD = Seam(
    "vllm_ascend.ops.fused_moe.fused_moe_0_23_0:AscendFusedMoE.forward_impl",
    "wrap",
    "dp_gather",
    ("npu",),
    "the plan of a layer is in force while this runs",
    _UNTIL_ASCEND,
)

ROWS = (
    MANAGER,
    SIZES_CONTEXT,
    ROUTING,
    PREPARE,
    FINALIZE,
    FORWARD,
    *members(
        _MANAGER,
        {
            "__init__": ("cpu_group",),
            "dispatch_router_logits": (
                "hidden_states",
                "router_logits",
                "is_sequence_parallel",
                "extra_tensors",
            ),
            "dispatch": ("hidden_states", "topk_weights", "topk_ids", "is_sequence_parallel", "extra_tensors"),
            "combine": ("hidden_states", "is_sequence_parallel"),
        },
        "override",
        "dp_gather",
        _VLLM_DEVICES,
        why=_WHY,
        remove_when=_UNTIL,
    ),
    Seam(
        "vllm.distributed.device_communicators.base_device_communicator:All2AllManagerBase.cpu_group",
        "read",
        "dp_gather",
        _VLLM_DEVICES,
        "our manager is built for the same group",
        _UNTIL,
    ),
    Seam(
        f"{_RUNNER}.do_naive_dispatch_combine",
        "read",
        "dp_gather",
        _VLLM_DEVICES,
        "says whether the layer gathers rows before it routes",
        _UNTIL,
    ),
    *members(
        "vllm.model_executor.layers.fused_moe.layer:FusedMoE",
        {"runner": None, "router": None, "quant_method": None, "moe_config": None},
        "read",
        "dp_gather",
        DEVICES,
        why="the layer's parts that the plan is put into",
        remove_when=_UNTIL,
    ),
    *members(
        "vllm.forward_context:ForwardContext",
        {"dp_metadata": None, "cudagraph_runtime_mode": None},
        "read",
        "dp_gather",
        DEVICES,
        why="the replicas' row counts, and whether the pass is a graph's",
        remove_when=_UNTIL,
    ),
    Seam(
        "vllm.forward_context:DPMetadata.num_tokens_across_dp_cpu",
        "read",
        "dp_gather",
        DEVICES,
        "the replicas' row counts",
        _UNTIL,
    ),
    *members(
        "vllm.distributed.parallel_state:GroupCoordinator",
        {"device_communicator": None, "device_group": None, "unique_name": None, "rank_in_group": None},
        "read",
        "dp_gather",
        DEVICES,
        why="the groups among which rows are exchanged",
        remove_when=_UNTIL,
    ),
    *members(
        "vllm_ascend.ops.fused_moe.moe_comm_method",
        {"get_moe_comm_method": ("moe_comm_type",), "MoECommMethod": None},
        "read",
        "dp_gather",
        ("npu",),
        why="the object through which all layers dispatch",
        remove_when=_UNTIL_ASCEND,
    ),
    Seam(
        "vllm_ascend.ops.fused_moe.moe_comm_method:MoECommMethod.prepare_finalize",
        "read",
        "dp_gather",
        ("npu",),
        "the part of it that exchanges rows",
        _UNTIL_ASCEND,
    ),
    Seam(
        "vllm_ascend.ops.fused_moe.moe_runtime_args:MoEPrepareOutput",
        "read",
        "dp_gather",
        ("npu",),
        "what the first half of an exchange returns",
        _UNTIL_ASCEND,
        ("hidden_states", "router_logits", "mc2_mask", "padded_hidden_states_shape", "pertoken_scale"),
    ),
)
