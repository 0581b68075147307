# SPDX-License-Identifier: Apache-2.0
"""What expert-load collection cannot be combined with."""

from __future__ import annotations

from typing import Any

from vllm_ascend_ext.config import EplbLoadConfig
from vllm_ascend_ext.integration.errors import UnsupportedCombinationError
from vllm_ascend_ext.integration.upstream.devices import DeviceIntegration
from vllm_ascend_ext.integration.upstream.draft_model import is_draft


def check(vllm_config: Any, device: DeviceIntegration, config: EplbLoadConfig) -> None:
    """Refuse what expert-load collection cannot be combined with; raises UnsupportedCombinationError."""
    if vllm_config.parallel_config.enable_elastic_ep:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load sums over a fixed set of ranks; turn enable_elastic_ep off"
        )
    if config.aggregation == "device" and not device.device_collectives:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load.aggregation='device' needs collectives on the device, which the CPU has not; "
            "set it to 'host'"
        )
    model_config, speculative_config = vllm_config.model_config, vllm_config.speculative_config
    if device.routes_itself:
        from vllm_ascend_ext.integration.eplb_load import ascend_routing

        ascend_routing.check(vllm_config)
    if vllm_config.parallel_config.use_ubatching:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load cannot tell micro-batches apart; turn enable_dbo off and leave ubatch_size at 0"
        )
    if model_config is None or is_draft(vllm_config):
        return  # a draft model may well be dense
    if speculative_config is not None and speculative_config.method == "ngram_gpu":
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load and speculative method 'ngram_gpu' do not work together: that proposer "
            "changes the number of scheduled tokens on the device; use 'ngram'"
        )
    if not model_config.is_moe:
        raise UnsupportedCombinationError(
            f"ascend_ext.eplb_load counts routed experts, but {model_config.model} has none; use a "
            "mixture-of-experts model or set eplb_load.enabled to false"
        )
    if config.rebalance and device.routes_itself:
        from vllm_ascend_ext.integration.eplb_load import ascend_eplb

        ascend_eplb.check(config)
    elif config.rebalance:
        from vllm_ascend_ext.integration.eplb_load import vllm_eplb

        vllm_eplb.check(vllm_config, config.rebalance_lead)
    if model_config.enable_return_routed_experts:
        raise UnsupportedCombinationError(
            "ascend_ext.eplb_load and enable_return_routed_experts both need vLLM's one routing hook; turn one off"
        )
