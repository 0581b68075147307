# SPDX-License-Identifier: Apache-2.0
"""Holds the facts that start-up checks: vLLM's configuration, ours, the device and its stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.upstream.devices import DeviceIntegration
from vllm_ascend_ext.integration.upstream.draft_model import is_draft
from vllm_ascend_ext.integration.upstream.stack import Stack


@dataclass(frozen=True, slots=True)
class Deployment:
    """Holds all that the rules of the features look at.

    Attributes:
        vllm_config: vLLM's configuration, as the platform has completed it.
        config: our section of it.
        device: our integration with the kind of device that the engine runs on.
        stack: software whose layers and model runner serve on that device: vLLM or vllm-ascend.
    """

    vllm_config: Any
    config: ExtConfig
    device: DeviceIntegration
    stack: Stack

    @property
    def parallel(self) -> Any:
        """Returns vLLM's `ParallelConfig`."""
        return self.vllm_config.parallel_config

    @property
    def model(self) -> Any:
        """Returns vLLM's `ModelConfig`; None where no model is served, as in some of vLLM's own tests."""
        return self.vllm_config.model_config

    @property
    def speculative_method(self) -> str | None:
        """Returns the method that drafts tokens, None without drafts."""
        speculative_config = self.vllm_config.speculative_config
        return None if speculative_config is None else str(speculative_config.method)

    @property
    def replays_graphs(self) -> bool:
        """Returns whether steps replay captured graphs."""
        from vllm.config import CUDAGraphMode

        return self.vllm_config.compilation_config.cudagraph_mode not in (None, CUDAGraphMode.NONE)

    @property
    def in_graphs(self) -> bool:
        """Returns whether the model is compiled, or its steps replay captured graphs."""
        from vllm.config import CompilationMode

        is_compiled = self.vllm_config.compilation_config.mode not in (None, CompilationMode.NONE)
        return is_compiled or self.replays_graphs

    @property
    def is_draft(self) -> bool:
        """Returns whether this is the configuration that vLLM checks once more for the draft model."""
        return is_draft(self.vllm_config)
