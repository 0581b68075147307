# SPDX-License-Identifier: Apache-2.0
"""Lists the seams by which two features learn how vllm-ascend will dispatch, before a step does."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import ON_0_23, ON_0_30, Feature, Seam, members

_CONTEXT = "vllm_ascend.ascend_forward_context"
_UNTIL = "vllm-ascend says in its configuration by which dispatches steps may travel"
_FEATURES: tuple[Feature, ...] = ("eplb_load", "dp_gather")


def _rows(feature: Feature) -> tuple[Seam, ...]:
    of_a_soc = ("num_tokens", "vllm_config", "mc2_tokens_capacity")
    return (
        Seam(
            f"{_CONTEXT}:select_moe_comm_method",
            "read",
            feature,
            ("npu",),
            "says before the first step which dispatches there will be",
            _UNTIL,
            ("num_tokens", "vllm_config"),
        ),
        *members(
            _CONTEXT,
            {"_select_a2_moe_comm_method": of_a_soc, "_select_a5_moe_comm_method": of_a_soc},
            "read",
            feature,
            ("npu",),
            why="says before anything is loaded which dispatches there may be",
            remove_when=_UNTIL,
            pairs=ON_0_23,
        ),
    )


ROWS = (
    *(row for feature in _FEATURES for row in _rows(feature)),
    Seam(
        f"{_CONTEXT}:_MOE_COMM_SELECTORS",
        "read",
        "eplb_load",
        ("npu",),
        "says before anything is loaded which dispatches there may be",
        _UNTIL,
        pairs=ON_0_30,
    ),
)
