# SPDX-License-Identifier: Apache-2.0
"""Compares predictions with what others have measured and published, to none of which anything was fitted.

SGLang #10568: DeepSeek-R1 in FP8 on eight H20, TP8, chunks of 16,384 rows. The profile does not say how many
chunks it holds. Two are taken: with one, products, links and memory would reach half of what they reach elsewhere,
and the saving would be 22 % of a step where requests became faster by 9 to 12 %. SGLang's last layer all-reduces
its output either way, which is one all-reduce more than the layers' own.
SGLang #28216: exchanges of rows on eight MI355X, one replica with 16,384 rows and seven with 32. The machine's
rates are of alike replicas, measured in the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_ascend_ext.collectives import sent_bytes
from vllm_ascend_ext.dp_gather.machine import describe
from vllm_ascend_ext.dp_gather.plan_cost import RowWidths, price
from vllm_ascend_ext.dp_gather.plan_rows import GatherMode, Topology, lay_out
from vllm_ascend_ext.machines.known import H20
from vllm_ascend_ext.tools.worth.gathering import step_s
from vllm_ascend_ext.tools.worth.model_sizes import ELEMENT_BYTES, read_sizes
from vllm_ascend_ext.tools.worth.question import Question
from vllm_ascend_ext.tools.worth.scattering import WayTime, ways

CHUNKS, CHUNK_ROWS, NUM_RANKS = 2, 16384, 8
# part: milliseconds before and after
PROFILE = {"projection": (205.1, 26.14), "norms": (82.303, 43.398), "communication": (267.1, 249.63)}
# tokens of a request: requests a second before and after
REQUESTS = {1000: (12.82, 14.22), 2000: (6.52, 7.33), 4000: (2.49, 2.72), 4096: (2.41, 2.63)}
# milliseconds of a layer's gather: 16384 rows beside seven times 32, of 7168 bfloat16
UNEVEN = {GatherMode.MAX_LEN: 3.974, GatherMode.SUM_LEN: 1.240, GatherMode.VARIABLE: 0.877}
_SOURCES = {
    "projection": ("projection",),
    "norms": ("input norm", "post-attention norm"),
    "communication": ("attention input", "attention output", "MLP output"),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Holds a published number and the predicted one, in the unit that its name tells."""

    name: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Returns the prediction over what was published, less one."""
        return self.predicted / self.published - 1


def question_10568(prompt: int = 4096) -> Question:
    """Returns what SGLang #10568 ran, with prompts of so many tokens."""
    return Question(read_sizes("deepseek-r1"), H20, NUM_RANKS, 1, CHUNK_ROWS, "fp8", prompt)


def profile() -> list[Comparison]:
    """Returns the parts of #10568's profile, before and after, in milliseconds."""
    plain, scattered = ways(question_10568())[:2]
    return [
        Comparison(f"{name}, {when}, ms", published, _part_ms(way, name))
        for name, both in PROFILE.items()
        for when, published, way in zip(("before", "after"), both, (plain, scattered), strict=True)
    ]


def faster_requests(*, by_model: bool = False) -> list[Comparison]:
    """Returns by how many percent #10568 made requests faster, for each length of a prompt.

    Args:
        by_model: the time of a step before is predicted too, from below; otherwise it is the published one, of
            which the predicted saving is taken.
    """
    found = []
    for prompt, (before, after) in REQUESTS.items():
        question = question_10568(prompt)
        plain, scattered = ways(question)[:2]
        whole_s = step_s(question) if by_model else CHUNK_ROWS / (before * prompt)
        gain = whole_s / (whole_s - plain.seconds + scattered.seconds) - 1
        name = f"requests/s with {prompt} tokens, % more"
        found.append(Comparison(name, 100 * (after / before - 1), 100 * gain))
    return found


def uneven_gathers() -> list[Comparison]:
    """Returns the gathers of #28216 with one long replica, in milliseconds."""
    topology = Topology(NUM_RANKS)
    machine = describe("mi355x", NUM_RANKS)
    counts = [16384, *[32] * 7]
    found = []
    for mode, published in UNEVEN.items():
        cost = price(mode, lay_out(counts, topology, mode), RowWidths((7168 * ELEMENT_BYTES,)), machine)
        found.append(Comparison(f"one long replica, {mode.value}, ms", published, 1e3 * (cost.gather_s or 0.0)))
    return found


def _part_ms(way: WayTime, name: str) -> float:
    """Returns the milliseconds of one part of the profile, with its calls where they are communication."""
    seconds = sum(part.seconds for part_name, part in way.parts.items() if part_name in _SOURCES[name])
    if name == "communication":
        whole = CHUNK_ROWS * 7168 * ELEMENT_BYTES
        last = sent_bytes.all_reduce(whole, NUM_RANKS) / H20.rates.send_rate("all_reduce", NUM_RANKS)
        seconds += way.calls_s + last + H20.rates.call_s(NUM_RANKS)
    return 1e3 * CHUNKS * seconds
