# SPDX-License-Identifier: Apache-2.0
"""Lists the features; a new feature is one line in this file."""

from __future__ import annotations

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.attn_scatter.feature import AttnScatterFeature
from vllm_ascend_ext.integration.dp_gather.feature import DpGatherFeature
from vllm_ascend_ext.integration.eplb_load.feature import EplbLoadFeature
from vllm_ascend_ext.integration.feature import Feature
from vllm_ascend_ext.integration.mtp_output.feature import MtpOutputFeature

# in the order in which they are bound
FEATURES: tuple[Feature, ...] = (EplbLoadFeature(), DpGatherFeature(), AttnScatterFeature(), MtpOutputFeature())


def enabled(config: ExtConfig) -> list[Feature]:
    """Returns the features that a configuration turns on, in the order of `FEATURES`."""
    return [feature for feature in FEATURES if getattr(config, feature.name).enabled]
