# SPDX-License-Identifier: Apache-2.0
"""The command line as a user runs it: real processes, real engines."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
COMMAND = [sys.executable, "-c", "import sys; from vllm_ascend_ext.cli import main; sys.exit(main())"]
NUM_TOKENS = 16


def run(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    "arguments", [["--tp", "2"], ["--tp", "1", "--dp", "2", "--k", "2"]], ids=["tp2", "dp2-k2"]
)
def test_demo(tiny_model, tmp_path, arguments):
    result = run(tmp_path, "demo", "--model", tiny_model, "--json", "--max-tokens", NUM_TOKENS, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    document = json.loads(result.stdout)

    comparison = document["comparison"]
    assert comparison["same_tokens"] and comparison["num_same"] == comparison["num_prompts"] == 12
    assert [len(completion["token_ids"]) for completion in document["completions"]] == [NUM_TOKENS] * 12
    assert document["num_generated_tokens"] == 12 * NUM_TOKENS

    assert [layer["draft"] for layer in document["layers"]] == [False, False, True]
    for layer in document["layers"]:
        assert sum(layer["load"]) == layer["num_tokens"] * layer["top_k"]
        assert layer["num_tokens"] > 12 * (NUM_TOKENS - 1) and layer["rank_imbalance"] >= 1
    assert document["mtp"]["num_drafts"] > 0
    assert len(document["mtp"]["accepted"]) == document["layout"]["num_speculative_tokens"]
    assert {row["rank"] for row in document["traffic"]} == {0, 1}
    assert all(row["calls"] > 0 and row["bytes"] > 0 for row in document["traffic"])

    picture = tmp_path / document["heatmap"]
    assert document["heatmap"] == "out/heatmap.png"
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    (tmp_path / "report.json").write_text(result.stdout)
    again = run(tmp_path, "heatmap", "report.json", "again.png")
    assert again.returncode == 0 and (tmp_path / "again.png").read_bytes() == picture.read_bytes()


def test_plain_output_and_one_rank(tiny_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("def main():\nimport \n")
    result = run(
        tmp_path,
        *("demo", "--model", tiny_model, "--tp", 1, "--k", 0, "--max-tokens", 4, "--dtype", "bfloat16"),
        *("--prompts", "prompts.txt", "--heatmap", "load.png"),
    )
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    for part in (
        "def main(): => ",
        "8 tokens in",
        "no traffic: one rank",
        "of 2 prompts: same tokens",
        "load.png",
    ):
        assert part in result.stdout
    assert (tmp_path / "load.png").is_file()


def test_failing_rank_is_one_line(tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").write_bytes(b"not safetensors")
    result = run(tmp_path, "demo", "--model", model)
    assert result.returncode == 1
    assert result.stderr.startswith("vllm-ascend-ext: error: rank ") and result.stderr.count("\n") == 1


def test_interrupt_ends_the_ranks(tiny_model, tmp_path):
    arguments = ["demo", "--model", tiny_model, "--max-tokens", "400", "--no-compare"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 200
    while len(ranks := children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # the ranks are starting their engines
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "vllm-ascend-ext: interrupted\n")
    assert len(ranks) == 2 and not any(Path(f"/proc/{rank}").exists() for rank in ranks)


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--tp", "3"],
        ["demo", "--k", "-2"],
        ["demo", "--model", "missing"],
        ["demo", "--prompts", "missing"],
        ["heatmap", "missing.json", "out.png"],
    ],
)
def test_bad_input_is_one_line(tiny_model, tmp_path, arguments):
    if "demo" in arguments and "--model" not in arguments:
        arguments = [*arguments, "--model", tiny_model]
    result = run(tmp_path, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("vllm-ascend-ext: error: ") and result.stderr.count("\n") == 1


def test_doctor_on_a_whole_installation(tiny_model, tmp_path):
    result = run(tmp_path, "doctor", "--json")
    document = json.loads(result.stdout)
    assert result.returncode == bool(document["problems"])
    assert {row["state"] for row in document["seams"]} <= {"ok", "absent"}
    assert {row["part"]: row["active"] for row in document["parts"]}["plug-in ascend_ext"]
    assert document["platform"]["runner_class"].startswith("vllm_ascend_ext.integration.workers.")
