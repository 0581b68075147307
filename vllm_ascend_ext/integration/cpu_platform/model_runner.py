# SPDX-License-Identifier: Apache-2.0
"""Defines `TorchCPUModelRunner`, which is vLLM's CPU runner with the parts that upstream leaves out."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from vllm_ascend_ext.integration.cpu_platform.streams import install_host_streams
from vllm_ascend_ext.integration.upstream.seams.change import Change, temporarily
from vllm_ascend_ext.integration.upstream.seams.rows import cpu_platform
from vllm_ascend_ext.integration.upstream.vllm_runner import MendedRunner


class TorchCPUModelRunner(MendedRunner, CPUModelRunner):
    """Adds EPLB, real host streams and the acceptance counts that asynchronous scheduling needs with MTP."""

    def __init__(self, vllm_config: Any, device: torch.device) -> None:
        install_host_streams()
        # upstream wraps its constructor in placeholders that lack most methods of a stream and an event
        with temporarily([Change(cpu_platform.PLACEHOLDER_STREAMS, nullcontext)]):
            super().__init__(vllm_config, device)
        install_host_streams()  # the constructor turns torch.accelerator.synchronize into a no-op without result

    def load_model(self, load_dummy_weights: bool = False) -> None:
        """Loads, then hands the models to EPLB, which upstream's CPU override of `load_model` forgets."""
        super().load_model(load_dummy_weights)
        if self.parallel_config.enable_eplb:
            self._create_eplb_state()

    def _create_eplb_state(self) -> None:
        from vllm.model_executor.models.interfaces import is_mixture_of_experts
        from vllm.v1.worker import gpu_model_runner

        self.eplb_state = gpu_model_runner.EplbState(  # by the name that eplb_load replaces, as in the GPU runner
            self.parallel_config, self.device
        )
        draft = getattr(getattr(self, "drafter", None), "model", None)
        if draft is not None and is_mixture_of_experts(draft):
            self.eplb_state.add_model(draft, self.speculative_config.draft_model_config)
        if is_mixture_of_experts(self.model):
            self._moe_model = self.model
            self.eplb_state.add_model(self.model, self.model_config)

    def _copy_valid_sampled_token_count(
        self, next_token_ids: torch.Tensor, valid_sampled_tokens_count: torch.Tensor
    ) -> None:
        """Copies the counts as upstream does, and keeps them where the next step looks for them.

        Upstream's CPU override drops the GPU runner's assignment of `valid_sampled_token_count_gpu`. Under
        asynchronous scheduling `_prepare_inputs` then takes the scheduler's optimistic `num_computed_tokens`
        (all drafts accepted), so that positions run ahead after the first rejected draft: wrong tokens. CUDA and
        NPU keep the assignment and are not affected.
        https://github.com/vllm-project/vllm/blob/v0.23.0/vllm/v1/worker/cpu_model_runner.py
        """
        super()._copy_valid_sampled_token_count(next_token_ids, valid_sampled_tokens_count)
        if self.use_async_spec_decode:
            self.valid_sampled_token_count_gpu = valid_sampled_tokens_count
