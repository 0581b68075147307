# SPDX-License-Identifier: Apache-2.0
"""The examples run as their first lines say, and what they print is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TESTED = {"eplb_load", "dp_gather", "attn_scatter", "mtp_output"}

pytestmark = pytest.mark.engine


def printed_by(example: str, model: str) -> str:
    """What `python examples/<example>.py MODEL` prints in the checkout; vLLM's own lines only from warnings on."""
    done = subprocess.run(
        [sys.executable, f"examples/{example}.py", model],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "VLLM_LOGGING_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tokens_of(text: str) -> list[int]:
    return [int(token) for token in re.findall(r"\d+", text)]


def test_every_example_is_tested_and_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert {file.stem for file in files} >= TESTED
    for file in files:
        assert file.read_text().count("\n") <= 60, file
        assert any(file.stem in test.read_text() for test in Path(__file__).parent.glob("test_*.py")), file


def test_eplb_load(tiny_model: str) -> None:
    """Every token but the last of each completion is routed, in each layer to four experts."""
    from transformers import AutoTokenizer

    text = (EXAMPLES / "eplb_load.py").read_text()
    (line,) = re.findall(r"^PROMPTS = (\[.*\])$", text, re.MULTILINE)
    prompts = [prompt.encode().decode("unicode_escape") for prompt in re.findall(r'"([^"]*)"', line)]
    num_prompt_tokens = sum(map(len, AutoTokenizer.from_pretrained(tiny_model)(prompts)["input_ids"]))
    num_routed = num_prompt_tokens + 4 * (32 - 1)
    printed = printed_by("eplb_load", tiny_model)
    assert f"128 tokens generated, {num_routed} routed" in printed
    layers = re.findall(
        r"^(\S+): (\d+) choices of 4 .* expert ([\d.]+) times .* ranks ([\d.]+) times", printed, re.M
    )
    assert [(name, int(total)) for name, total, _, _ in layers] == [
        (f"model.layers.{index}.mlp.experts", 4 * num_routed) for index in (1, 2)
    ]
    for _, _, over_experts, over_ranks in layers:
        assert 16 > float(over_experts) > float(over_ranks) > 1  # rank sums even experts' loads out


def test_dp_gather(tiny_model: str) -> None:
    """Both replicas follow the same plans, send what these say, and generate what a single rank does."""
    printed = printed_by("dp_gather", tiny_model)
    ranks: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    pattern = r"rank (\d): (\w+) in (\d+) layers, (\d+) rows, (\d+) of them padding, (\d+) bytes planned"
    for rank, *counts in re.findall(pattern, printed):
        ranks[int(rank)].append(tuple(counts))
    assert set(ranks) == {0, 1} and {mode for mode, *_ in ranks[0]} <= {"max_len", "variable"}
    assert [counts[:4] for counts in ranks[0]] == [counts[:4] for counts in ranks[1]]
    sent = {int(rank): int(num_bytes) for rank, num_bytes in re.findall(r"rank (\d): (\d+) bytes sent", printed)}
    assert sent == {rank: sum(int(counts[4]) for counts in modes) for rank, modes in ranks.items()}
    assert min(sent.values()) > 0 and "8 of 8 completions equal" in printed


def test_attn_scatter(tiny_model: str) -> None:
    """The long prompt's step is scattered, those that decode are not; both ranks send what was foretold."""
    printed = printed_by("attn_scatter", tiny_model)
    completions = re.findall(r"^(\d+) prompt tokens -> \[(.*)\]", printed, re.M)
    assert [len(tokens_of(tokens)) for _, tokens in completions] == [8, 8] and int(completions[0][0]) > 64
    pattern = (
        r"rank (\d): (\d+) passes scattered, (\d+) plain \(fewer than 64 rows\), (\d+) bytes predicted, (\d+)"
    )
    ranks = [tuple(map(int, found)) for found in re.findall(pattern, printed)]
    assert [rank for rank, *_ in ranks] == [0, 1]
    for _, num_scattered, num_plain, predicted, sent in ranks:
        assert num_scattered >= 1 and num_plain >= 7 and predicted == sent > 0


def test_mtp_output(tiny_model: str) -> None:
    """The reader's tokens of each request are the engine's; each request ends once; drafts are accepted."""
    printed = printed_by("mtp_output", tiny_model)
    of_engine = re.findall(r"engine: request (\d+) (\[[\d, ]*\])", printed)
    engine = {request: tokens_of(tokens) for request, tokens in of_engine}
    read: dict[str, list[int]] = defaultdict(list)
    steps: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for request, status, tokens in re.findall(r"step \d+: request (\d+)\S* (\w+) (\[[\d, ]*\])", printed):
        read[request] += tokens_of(tokens)
        steps[request].append((status, len(tokens_of(tokens))))
    assert [len(tokens) for tokens in engine.values()] == [16, 16] and read == engine, printed
    for of_request in steps.values():
        assert [status for status, _ in of_request].count("FINISHED") == 1
        assert max(num_tokens for _, num_tokens in of_request) > 1
