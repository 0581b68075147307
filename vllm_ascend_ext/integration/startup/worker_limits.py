# SPDX-License-Identifier: Apache-2.0
"""Lists what our worker itself cannot work with, whatever the features."""

from __future__ import annotations

from vllm_ascend_ext.integration.deployment import Deployment
from vllm_ascend_ext.integration.refusal import Rule


def _has_other_worker(deployment: Deployment) -> object:
    worker, device = deployment.parallel.worker_cls, deployment.device
    # "auto" is still there when the platform refused the configuration before it chose a worker
    return None if worker in (device.default_worker, device.worker, "auto") else {"worker": worker}


def _uses_compiled_graph_of_ray(deployment: Deployment) -> bool:
    from vllm import envs as vllm_envs

    return deployment.parallel.use_ray and not vllm_envs.VLLM_USE_RAY_V2_EXECUTOR_BACKEND


RULES = (
    Rule(
        "VLLM_USE_RAY_V2_EXECUTOR_BACKEND",
        "has not run with vLLM's older Ray executor, of Ray's compiled graphs",
        "unset VLLM_USE_RAY_V2_EXECUTOR_BACKEND or set it to 1",
        _uses_compiled_graph_of_ray,
    ),
    Rule(
        "worker_cls",
        "brings its own worker and cannot work with {worker}",
        "leave worker_cls at 'auto' (and other plug-ins' workers off) or remove additional_config['ascend_ext']",
        _has_other_worker,
    ),
    Rule(
        "VLLM_USE_V2_MODEL_RUNNER",
        "works in vLLM's V1 model runner, and vLLM has chosen its V2 runner for this model",
        "set VLLM_USE_V2_MODEL_RUNNER=0",
        lambda d: d.vllm_config.use_v2_model_runner and not d.device.falls_back_to_first_runner,
    ),
    Rule(
        "enable_prompt_embeds",
        "cannot serve prompts that may be embeddings beside drafts: vLLM takes rows of tokens for embeddings then "
        "(vLLM #57356), which is mended in its own runner only, not in vllm-ascend's",
        "turn enable_prompt_embeds off or remove speculative_config",
        lambda d: d.model and d.model.enable_prompt_embeds and d.speculative_method,
        stack="vllm-ascend",
    ),
)
