# SPDX-License-Identifier: Apache-2.0
"""Names the races of vLLM and vllm-ascend themselves that the checker reports in engines; none of them is ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vllm_ascend_ext.integration.upstream.versions import PAIRS, installed_pair


@dataclass(frozen=True)
class UpstreamRace:
    """Describes one race. places: patterns of lines that a report of it has, all of them. why: what happens."""

    places: tuple[str, ...]
    why: str

    def is_in(self, report: str) -> bool:
        return all(re.search(place, report) for place in self.places)


# with asynchronous scheduling and drafts
CORRECTED_COUNTS = UpstreamRace(
    ("correct_spec_decode_token_counts",),
    "vLLM's correction of the accepted counts writes the pinned `num_computed_tokens_cpu` while its copy to the "
    "device, queued behind the previous step, may be pending (vLLM 0.23.0 gpu_model_runner.py:2067 and 1484, and "
    "the same in vllm-ascend; vLLM 0.30.0 gpu_model_runner.py:1576, vllm-ascend 0.30.0rc2 "
    "model_runner_v1.py:1511). It corrects rows that the device computes itself: no token depends on the copy.",
)
# with asynchronous scheduling, on ranks whose output the engine does not take
DROPPED_OUTPUT = UpstreamRace(
    (
        r"reads it\n +at vllm/v1/worker/gpu_model_runner\.py:\d+ in __init__",
        r"from vllm_ascend/worker/model_runner_v1\.py:\d+ in sample_tokens",
        # padding of the block, of which no tensor was freed, has no such line
        r"(?s)freed at vllm/v1/executor/multiproc_executor\.py:\d+ in worker_busy_loop|\A(?!.*freed at)",
    ),
    "a worker that is not the output rank drops a step's output at once, and with it the sampled tokens, while "
    "their copy to the host on a side stream is pending; the main stream may get the same memory (vLLM 0.30.0 "
    "gpu_model_runner.py:322, multiproc_executor.py:1047; docs/upstream/dropped_outputs.md). vLLM 0.23.0 holds "
    "the output until the next call has returned. Nobody reads that copy.",
)
# with drafts of a model whose layers have states
ACCEPTED_COUNTS = UpstreamRace(
    ("_update_states_after_model_execute", r"at vllm/v1/worker/gpu_input_batch\.py:\d+ in (add_request|condense)"),
    "the batch of the next step reads and writes the pinned `num_accepted_tokens_cpu` while the copy of the last "
    "step's counts may be pending; only later it waits for that copy (vLLM 0.23.0 gpu_model_runner.py:1536, "
    "gpu_input_batch.py:466 and 786; vllm-ascend 0.23.0.post1 waits at model_runner_v1.py:1152).",
)
# with a temperature above 0; mended (`mend_races`)
SAMPLES = UpstreamRace(
    (r"sample/sampler\.py:\d+ in random_sample",),
    "vllm-ascend draws random numbers on a side stream and divides by them on the main stream; the side stream "
    "may get their memory again while the division is pending (vllm-ascend #13673).",
)
# with asynchronous scheduling and drafts, across data-parallel replicas; mended (`mend_races`)
VALID_COUNTS = UpstreamRace(
    ("_copy_valid_sampled_token_count",),
    "vllm-ascend copies the numbers of valid tokens on a side stream, which the allocator is not told of; the "
    "main stream may get the same memory while the copy is pending (vllm-ascend 0.23.0.post1 "
    "model_runner_v1.py:1655).",
)
# with asynchronous scheduling and drafts of EAGLE-3
DRAFT_QUERIES = UpstreamRace(
    (
        r"vllm_ascend/attention/attention_v1\.py:\d+ in build",
        r"from vllm_ascend/spec_decode/llm_base_proposer\.py:\d+ in _propose",
        r"at vllm_ascend/worker/model_runner_v1\.py:\d+ in _prepare_inputs",
    ),
    "the next step writes its query lengths while the copy that the drafter's attention metadata made of the last "
    "ones may be pending: the event that orders the buffer is recorded before the drafts (vllm-ascend "
    "0.23.0.post1 attention_v1.py:315, model_runner_v1.py:1066). Drafts depend on it, and no token that stays.",
)
# in warm-up before a capture, and while capturing; no request is there yet; mended (`mend_races`)
_WARM_UP = r"from vllm/v1/worker/gpu_model_runner\.py:\d+ in _warmup_and_capture"
_OF_DUMMY_RUN = r"vllm_ascend/worker/model_runner_v1\.py:\d+ in _dummy_run"
_IN_DUMMY_RUN = r"at vllm_ascend/worker/model_runner_v1\.py:\d+ in _dummy_run"
CAPTURE = (
    UpstreamRace(
        (_WARM_UP, _IN_DUMMY_RUN, r"at vllm_ascend/attention/attention_v1\.py:\d+ in build"),
        "a dummy run writes its query lengths while the copy that the last one's attention metadata made of them "
        "may be pending (vllm-ascend 0.23.0.post1 model_runner_v1.py:3512, attention_v1.py:315)",
    ),
    UpstreamRace(
        (_WARM_UP, rf"(?s){_IN_DUMMY_RUN}.*{_IN_DUMMY_RUN}"),
        "a dummy run writes its sequence lengths while the copy that the last one made of them may be pending "
        "(vllm-ascend 0.23.0.post1 model_runner_v1.py:3506 and 3508)",
    ),
)
# with decode context parallelism and drafts, in passes without a request: warm-up, captures, an idle replica's
DUMMY_LENGTHS = UpstreamRace(
    (r"in init_batch_info", rf"(?s){_OF_DUMMY_RUN}.*second: .*{_OF_DUMMY_RUN}"),
    "a dummy run writes its query lengths twice, and copies them each time; the first copy of these, or the last "
    "one of the dummy run before, may be pending (vllm-ascend 0.23.0.post1 model_runner_v1.py:3450 and 3457, "
    "pcp_utils.py:332). What it computes goes nowhere.",
)
# in full graphs, of vllm-ascend 0.30
PADDED_QUERIES = UpstreamRace(
    (
        r"(?:from|at) vllm_ascend/worker/model_runner_v1\.py:\d+ in (?:_prepare_inputs|_dummy_run)",
        r"the program writes it\n +at vllm_ascend/worker/model_runner_v1\.py:\d+ in _pad_query_start_loc_for_fia",
    ),
    "the padding of a step's query lengths to the captured size is written to the pinned buffer while the copy "
    "that `_prepare_inputs` made of them may be pending; the same bytes are copied once more behind it, before "
    "anything reads them (vllm-ascend 0.30.0rc2 model_runner_v1.py:1437, 4096 and 1092).",
)
# what engines with graphs may report
IN_GRAPHS = CAPTURE if installed_pair() == PAIRS[0] else (*CAPTURE, PADDED_QUERIES)

# in every engine with dynamic EPLB, before it serves
EPLB_WARM_UP = UpstreamRace(
    (r"HcclBatchSendRecv on stream", r"at vllm_ascend/eplb/eplb_updator\.py:\d+ in warm_up_eplb"),
    "the warm-up of EPLB's exchange sends one element to each rank and receives one from each into the very same "
    "one, in one call (vllm-ascend 0.23.0.post1 eplb_updator.py:162 to 179). Nobody reads it.",
)
# of DeepSeek-V4, with `multistream_dsv4_dsa_overlap`, the default
INDEXER_KEYS = UpstreamRace(
    (
        r"in indexer_quant_scatter_part1",
        r"freed at vllm_ascend/attention/dsa_v1\.py:\d+ in cv_indexer_select_qli",
    ),
    "vllm-ascend quantises the indexer's new keys on a side stream, which the allocator is not told of, and lets "
    "go of them; the main stream may get the same memory for the queries while they are read (vllm-ascend "
    "0.23.0.post1 attention/dsa_v1.py:2779 and 2794).",
)


# a report of another process begins so; one of this process has no such line
_RACE = re.compile(r"(?ms)^\[emulator\] race .*?(?=^\[emulator\] race |\Z)")


def others(reports: Iterable[str], known: Iterable[UpstreamRace]) -> list[str]:
    """Returns the races that are none of the known ones; EPLB_WARM_UP is always known.

    Each race is judged by itself: what another process has written comes as one text, with all of its races.
    """
    races = (*known, EPLB_WARM_UP)
    each = [race for text in reports for race in _RACE.findall(text) or [text]]
    return [report for report in each if not any(race.is_in(report) for race in races)]
