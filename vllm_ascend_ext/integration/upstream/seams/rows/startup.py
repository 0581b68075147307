# SPDX-License-Identifier: Apache-2.0
"""Lists the seams between vLLM's configuration and our worker."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import DEVICES, ON_0_30, Seam

_WHY_HOOK = (
    "the platform's hook is the one place that runs after vLLM has filled in `worker_cls` and before any worker "
    "exists; a general plug-in is called before there is a configuration"
)
_UNTIL_HOOK = "vLLM hands the finished configuration to its plug-ins"

CONFIGURATION_HOOK = Seam(
    "vllm.platforms.interface:Platform.check_and_update_config",
    "wrap",
    "startup",
    DEVICES,
    _WHY_HOOK,
    _UNTIL_HOOK,
    ("vllm_config",),
)
CUDA_HOOK = Seam(
    "vllm.platforms.cuda:CudaPlatformBase.check_and_update_config",
    "wrap",
    "startup",
    ("cuda",),
    _WHY_HOOK,
    _UNTIL_HOOK,
    ("vllm_config",),
)
NPU_HOOK = Seam(
    "vllm_ascend.platform:NPUPlatform.check_and_update_config",
    "wrap",
    "startup",
    ("npu",),
    _WHY_HOOK,
    _UNTIL_HOOK,
    ("vllm_config",),
)
WORKER_CLASS = Seam(
    "vllm.config.parallel:ParallelConfig.worker_cls",
    "replace",
    "startup",
    DEVICES,
    "by it vLLM chooses the worker to build; ours derives from the device's own",
    "features bind without a worker of their own",
)
USES_SECOND_RUNNER = Seam(
    "vllm.config.vllm:VllmConfig.use_v2_model_runner",
    "read",
    "startup",
    DEVICES,
    "our runner derives from vLLM's V1 runner, and vLLM may choose its V2 runner",
    "vLLM has one runner",
)
ADDITIONAL_CONFIG = Seam(
    "vllm.config.vllm:VllmConfig.additional_config",
    "replace",
    "startup",
    DEVICES,
    "our section is in it; where vLLM loads plug-ins too late, it is one that prepares the process by itself",
    "never: it is vLLM's place for that",
)
ENGINE_ACTOR = Seam(
    "vllm.v1.engine.core:EngineCoreActorMixin.__init__",
    "wrap",
    "startup",
    DEVICES,
    "an engine core that is a Ray actor makes its group of replicas before it loads a plug-in",
    "vLLM loads plug-ins before it builds an engine core that is an actor",
    ("vllm_config", "addresses", "dp_rank", "local_dp_rank"),
)
ASCEND_CONFIG = Seam(
    "vllm_ascend.ascend_config:AscendConfig",
    "wrap",
    "startup",
    ("npu",),
    "refuses keys of `additional_config` that it does not know, in engine cores before plug-ins are loaded",
    "vllm-ascend leaves out keys that other plug-ins have claimed (docs/upstream/additional_config_keys.md)",
    upstream="https://github.com/vllm-project/vllm-ascend/issues/15418",
    pairs=ON_0_30,
)

ROWS = (
    CONFIGURATION_HOOK,
    CUDA_HOOK,
    NPU_HOOK,
    WORKER_CLASS,
    USES_SECOND_RUNNER,
    ADDITIONAL_CONFIG,
    ENGINE_ACTOR,
    ASCEND_CONFIG,
)
