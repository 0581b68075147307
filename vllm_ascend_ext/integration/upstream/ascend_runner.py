# SPDX-License-Identifier: Apache-2.0
"""Mends races of vllm-ascend's model runner (V1) by putting in order what it leaves unordered.

Each is reported by the emulator's race checker with the mend off. No mend changes what is computed, and none makes
the host wait while requests are served. `additional_config["ascend_ext"]["mend_races"]` turns all of them off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm_ascend_ext.config import ExtConfig
from vllm_ascend_ext.integration.upstream.seams import change
from vllm_ascend_ext.integration.upstream.seams.rows import ascend_runner as seams


class MendedAscendRunner:
    """Stands in front of vllm-ascend's runner, as a mixin; each method says what it mends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = ExtConfig.from_additional_config(self.vllm_config.additional_config or None) or ExtConfig()
        self._mends_races = config.mend_races
        self._is_capturing = False
        if self._mends_races:
            _order_samples()

    def _copy_valid_sampled_token_count(self, next_token_ids: Any, valid_sampled_tokens_count: Any) -> None:
        """Tells the allocator of the side stream that copies the counts.

        Without that the main stream may get their memory while the copy is pending: another tensor's values are
        taken for the numbers of valid tokens.
        """
        super()._copy_valid_sampled_token_count(  # type: ignore[misc]
            next_token_ids, valid_sampled_tokens_count
        )
        if self._mends_races and self.valid_sampled_token_count_event is not None:
            valid_sampled_tokens_count.record_stream(self.valid_sampled_token_count_copy_stream)

    def capture_model(self) -> int:
        """Captures the graphs, each dummy run after the one before it has ended (see `_dummy_run`)."""
        self._is_capturing = True
        try:
            size: int = super().capture_model()  # type: ignore[misc]
        finally:
            self._is_capturing = False
        return size

    def _dummy_run(self, *args: Any, **kwargs: Any) -> Any:
        """Waits for the device before a dummy run of the captures, of which nobody waits for a result.

        Such a run writes its lengths into pinned memory while the copies that the last one made of them may be
        pending, and would warm up, or capture, with lengths that belong to another run.
        """
        if self._mends_races and self._is_capturing:
            import torch

            torch.npu.current_stream().synchronize()  # type: ignore[attr-defined]
        return super()._dummy_run(*args, **kwargs)  # type: ignore[misc]

    # attributes of vllm-ascend's runner that the mixin reads
    vllm_config: Any
    valid_sampled_token_count_event: Any
    valid_sampled_token_count_copy_stream: Any


@functools.cache  # once a process
def _order_samples() -> None:
    """Keeps the next random numbers from the memory of the last ones while these are in use.

    vllm-ascend draws them on a side stream, and the main stream divides by them. When the function returns, the
    side stream may get their memory again and draw into it before the division is done: wrong tokens, or none of
    the vocabulary (https://github.com/vllm-project/vllm-ascend/issues/13673).
    """
    change.wrap(seams.RANDOM_SAMPLE, None, _ordered)


def _ordered(random_sample: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    import torch
    from vllm_ascend.utils import global_stream

    @functools.wraps(random_sample)
    def ordered(probs: Any, generators: Any) -> Any:
        token_ids = random_sample(probs, generators)
        global_stream().wait_stream(torch.npu.current_stream())  # type: ignore[attr-defined]
        return token_ids

    return ordered
