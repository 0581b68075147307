# SPDX-License-Identifier: Apache-2.0
"""Lists the seams at which races of vllm-ascend's runner are mended (`upstream/ascend_runner.py`)."""

from __future__ import annotations

from vllm_ascend_ext.integration.upstream.seams.seam import Seam, members

_RUNNER = "vllm_ascend.worker.model_runner_v1:NPUModelRunner"
_WHY_SAMPLES = "random numbers are drawn into memory that the last ones are still read from: wrong tokens"
_UNTIL_SAMPLES = "vllm-ascend has #13394, which tells the allocator of the stream that reads them"
_SAMPLES = "https://github.com/vllm-project/vllm-ascend/issues/13673"
_WHY_COUNTS = "the numbers of valid tokens are copied on a side stream that the allocator is not told of"
_UNTIL_COUNTS = "vllm-ascend calls `record_stream` there"
_WHY_LENGTHS = "a dummy run of the captures writes lengths that the last one's pending copies still read"
_UNTIL_LENGTHS = "vllm-ascend waits between the dummy runs of its captures"

RANDOM_SAMPLE = Seam(
    "vllm_ascend.sample.sampler:random_sample",
    "wrap",
    "runner",
    ("npu",),
    _WHY_SAMPLES,
    _UNTIL_SAMPLES,
    ("probs", "generators"),
    _SAMPLES,
)

ROWS = (
    RANDOM_SAMPLE,
    Seam(
        "vllm_ascend.utils:global_stream", "read", "runner", ("npu",), _WHY_SAMPLES, _UNTIL_SAMPLES, (), _SAMPLES
    ),
    *members(
        _RUNNER,
        {"_copy_valid_sampled_token_count": ("next_token_ids", "valid_sampled_tokens_count")},
        "override",
        "runner",
        ("npu",),
        why=_WHY_COUNTS,
        remove_when=_UNTIL_COUNTS,
    ),
    *members(
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
        {"valid_sampled_token_count_event": None, "valid_sampled_token_count_copy_stream": None},
        "read",
        "runner",
        ("npu",),
        why=_WHY_COUNTS,
        remove_when=_UNTIL_COUNTS,
    ),
    *members(
        _RUNNER,
        {"capture_model": ()},
        "override",
        "runner",
        ("npu",),
        why=_WHY_LENGTHS,
        remove_when=_UNTIL_LENGTHS,
    ),
)
