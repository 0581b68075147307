# SPDX-License-Identifier: Apache-2.0
"""`vllm-ascend-ext check` of single commands: what it reads, answers and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_ascend_ext import cli, envs
from vllm_ascend_ext.integration.upstream.versions import PAIRS, installed_vllm

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("vllm_preloaded")]

TINY = "tests/assets/tiny-deepseek"
QWEN = "Qwen/Qwen3-30B-A3B"
ON = '{"ascend_ext": {"eplb_load": {"enabled": true}}}'


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM is loaded here already, and what the command exports would reach other tests."""
    monkeypatch.setattr(envs, "export", lambda values: None)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Returns exit status, document and the line of an error."""
    status = cli.main(["check", "--json", *words])
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("vllm-ascend-ext: error: ")]
    return status, json.loads(out) if out else None, "".join(errors)


def features(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    _, document, error = check(capsys, *words)
    assert not error
    (command,) = document["commands"]
    found: dict[str, Any] = command["features"]
    return found


def classes(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    return dict(features(capsys, "--soc", "A3", "--", *words)["mtp_output"]["classes"]["A3"])


def test_a_class_that_a_test_has_run_starts(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("vllm", "serve", TINY, "-tp", "2", "--enable-expert-parallel", "--enforce-eager")
    drafts = ("--speculative-config", '{"method": "deepseek_mtp", "num_speculative_tokens": 2}')
    asked = ("--soc", "A2", "--feature", "mtp_output", "--feature", "eplb_load", "--")
    status, document, _ = check(capsys, *asked, *command, *drafts)
    found = document["commands"][0]["features"]
    assert status == 0 and set(found) == {"eplb_load", "mtp_output"}
    assert {feature["state"] for feature in found.values()} == {"starts"}
    (test,) = found["mtp_output"]["classes"]["A2"]["tests"]
    assert test.startswith("tests/mtp_output/")
    status, document, _ = check(capsys, *asked, *command, *(word.replace("2", "7") for word in drafts))
    assert status == 0
    found = document["commands"][0]["features"]["mtp_output"]
    assert found["state"] == "unverified" and found["classes"]["A2"]["lacks"] == ["mtp 7"]


def test_prompt_embeddings_are_refused_beside_drafts_alone(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("vllm", "serve", TINY, "--enforce-eager", "--enable-prompt-embeds")
    drafts = ("--speculative-config", '{"method": "deepseek_mtp", "num_speculative_tokens": 2}')
    for words, is_refused in ((command + drafts, True), (command, False)):
        _, document, _ = check(capsys, "--soc", "A2", "--feature", "eplb_load", "--", *words)
        reasons = document["commands"][0]["features"]["eplb_load"]["reasons"]
        assert [reason["setting"] for reason in reasons] == ["enable_prompt_embeds"] * is_refused


def test_every_reason_is_said_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("VLLM_ASCEND_ENABLE_FLASHCOMM1=1", "vllm", "serve", f"{QWEN}-w8a8", "-tp=2", "-ep", "-dp", "2")
    status, document, _ = check(capsys, "--soc", "A2", "--", *command)
    found = document["commands"][0]["features"]["dp_gather"]
    assert status == 1 and found["state"] == "refused"
    settings = [reason["setting"] for reason in found["reasons"]]
    assert len(settings) > 1 and set(settings) & {"enforce_eager", "quantization", "enable_expert_parallel"}
    assert all(reason["instead"] and reason["socs"] == ["A2"] for reason in found["reasons"])
    assert document["commands"][0]["features"]["mtp_output"]["state"] != "refused"


def test_the_commands_own_section_is_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("vllm", "serve", QWEN, "--enforce-eager", "--additional-config")
    status, document, _ = check(capsys, "--soc", "A2", "--", *command, ON)
    assert status == 0 and list(document["commands"][0]["features"]) == ["eplb_load"]
    status, document, _ = check(capsys, "--", *command, ON.replace("enabled", "enable"))
    (reason,) = document["commands"][0]["features"]["mtp_output"]["reasons"]
    assert status == 1 and "ascend_ext.eplb_load.enable: unknown key; did you mean 'enabled'" in reason["why"]


def test_what_an_a2_takes_no_notice_of_is_refused_on_an_a3_alone(capsys: pytest.CaptureFixture[str]) -> None:
    fused = ("-tp", "2", "--enable-expert-parallel", "--additional-config", '{"enable_fused_mc2": 2}')
    asked = ("--feature", "eplb_load", "--", "vllm", "serve", QWEN, *fused)
    _, document, _ = check(capsys, *asked)
    (reason,) = document["commands"][0]["features"]["eplb_load"]["reasons"]
    assert (reason["setting"], reason["socs"]) == ("enable_fused_mc2", ["A3"])


def test_a_reason_on_one_soc_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--feature", "attn_scatter", "--", "vllm", "serve", QWEN]) == 1
    text = capsys.readouterr().out
    assert "attn_scatter: ✗ refused" in text and "[on" not in text
    words = ["vllm", "serve", QWEN, "-tp", "2", "-dp", "2", "-ep", "--enforce-eager"]
    cli.main(["check", "--feature", "dp_gather", "--", *words])
    text = " ".join(capsys.readouterr().out.split())
    assert "MC2" in text and "[on A3]" in text


LATER = ("--pair", "0.30.0rc2", "--soc", "A3", "--feature", "eplb_load")


def test_a_pair_is_judged_by_its_own_limits(capsys: pytest.CaptureFixture[str]) -> None:
    """What starts on the first pair is refused or unverified where the second has not run it."""
    eager = ("vllm", "serve", QWEN, "-tp", "2", "--enforce-eager")
    for pair in ("0.30.0rc2", "0.30.0"):
        status, document, _ = check(capsys, *LATER, "--pair", pair, "--", *eager)
        assert status == 0 and document["pair"]["vllm_ascend"] == "0.30.0rc2"
        assert document["commands"][0]["features"]["eplb_load"]["state"] == "starts"
    for words, settings in {
        ("-ep", "-dp", "2"): [],
        ("-dp", "2"): ["data_parallel_size"],
        ("-pp", "2"): ["pipeline_parallel_size"],
        ("-dcp", "2", "-pp", "2"): ["pipeline_parallel_size", "decode_context_parallel_size"],
        ("-q", "fp8"): ["experts quantised as 'fp8'"],
        ("-ep", "--additional-config.enable_flashcomm1=true"): [],
        ("-ep", "--additional-config.enable_shared_expert_dp=true"): [],
        ("-ep", "--additional-config.enable_fused_mc2=1"): [],
        ("-ep", "--additional-config.enable_fused_mc2=2"): ["MegaMoe"],
        ("--additional-config.eplb_config.load_collection_phase=decode",): [],
    }.items():
        _, document, _ = check(capsys, *LATER, "--", *eager, *words)
        reasons = document["commands"][0]["features"]["eplb_load"]["reasons"]
        told = [f"{reason['setting']} {reason['why']}" for reason in reasons]
        assert bool(told) == bool(settings)
        assert all(any(setting in line for line in told) for setting in settings), (words, told)
    _, document, _ = check(capsys, *LATER, "--", "VLLM_USE_V2_MODEL_RUNNER=1", *eager)
    (reason,) = document["commands"][0]["features"]["eplb_load"]["reasons"]
    assert reason["setting"] == "VLLM_USE_V2_MODEL_RUNNER"


def test_another_version_lists_the_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    status, document, error = check(capsys, "--pair", "0.31.0", "--", "vllm", "serve", QWEN)
    assert (status, document) == (2, None)
    assert "--pair 0.31.0 is of no tested pair" in error and all(str(pair) in error for pair in PAIRS)


@pytest.mark.skipif(installed_vllm() != PAIRS[0].vllm, reason="of commands that a later vLLM reads")
def test_what_the_installed_parser_does_not_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("vllm", "serve", QWEN, "-tp", "2", "--enforce-eager")
    later = ("--later-option", "-1", "--later_flag", "--port", "1")
    status, document, _ = check(capsys, *LATER, "--", *command, *later)
    found = document["commands"][0]["features"]["eplb_load"]
    assert status == 0 and found["state"] == "unverified" and document["pair"]["read_by"] == "0.23.0"
    lacks = found["classes"]["A3"]["lacks"]
    assert [line.partition(",")[0] for line in lacks] == ["--later-option", "--later-flag"]
    status, _, error = check(capsys, *LATER, "--", *command, *later, "-dp", "two")
    assert status == 2 and "invalid int value: 'two' (without --later-option, --later-flag" in error
    status, _, error = check(capsys, "--", *command, *later)
    assert status == 2 and "unrecognized" in error and "read by" not in error


@pytest.mark.parametrize(
    ("words", "dimension", "value"),
    [
        (("-tp", "4"), "layout", "TP"),
        (("--tensor-parallel-size=4", "--data_parallel_size", "2", "-ep"), "layout", "DP+TP+EP"),
        (("-dp", "8", "--data-parallel-size-local", "2", "--headless", "-ep"), "layout", "DP+EP"),
        (("-pp", "2", "-dcp", "2", "-tp", "2"), "layout", "TP+PP+DCP"),
        (("-cc.cudagraph_mode=PIECEWISE",), "graphs", "PIECEWISE"),
        (("--compilation-config", '{"cudagraph_mode": "FULL_DECODE_ONLY"}'), "graphs", "FULL_DECODE_ONLY"),
        ((), "graphs", "FULL_AND_PIECEWISE"),
        (("-O0",), "graphs", "eager"),
        (("--enforce-eager",), "graphs", "eager"),
        (("--quantization", "ascend"), "weights", "ascend"),
        (("-ep", "-tp", "2", "--additional-config", '{"enable_fused_mc2": 1}'), "dispatch", "FUSED_MC2"),
        (("-ep", "-tp", "2"), "dispatch", "MC2, ALLTOALL"),
        (("-ep", "-tp", "2", "--additional-config.enable_flashcomm1", "true"), "row_split", "FlashComm v1"),
        (("-ep", "-tp", "2", "--additional-config.enable_shared_expert_dp=true"), "row_split", "shared-expert DP"),
        (("--speculative-config", '{"method": "mtp", "num_speculative_tokens": 3}'), "drafts", "mtp 3"),
        (
            ("--speculative-config", '{"model": "$DRAFT/eagle3", "num_speculative_tokens": 1}'),
            "drafts",
            "eagle3 1",
        ),
        (
            ("--kv-transfer-config", '{"kv_connector": "M", "kv_role": "kv_producer", "kv_port": "$PORT"}'),
            "transfer",
            "producer",
        ),
        (("--port", "$PORT", "--data-parallel-address", "${IP}", "-tp", "2"), "layout", "TP"),
    ],
)
def test_options_as_vllm_reads_them(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], dimension: str, value: str
) -> None:
    assert classes(capsys, "vllm", "serve", QWEN, *words)[dimension] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vllm", "serve", QWEN, "--no-such-option", "1"), "vLLM does not take the command: unrecognized"),
        (("vllm", "serve", QWEN, "-tp", "two"), "invalid int value: 'two'"),
        (("vllm", "serve", QWEN, "-tp"), "expected one argument"),
        (("vllm", "serve", QWEN, "--additional-config", "{enable"), "--additional-config is no JSON mapping"),
        (("vllm", "serve", "-tp", "2"), "names no model"),
        (("vllm", "serve", "--help"), "vLLM does not take the command"),
        (("vllm", "serve", QWEN, "-tp", "$TP"), "-tp is left to $TP"),
        (("vllm", "serve", QWEN, "--data-parallel-size=${DP}"), "--data-parallel-size is left to ${DP}"),
        (("vllm", "serve", "$MODEL"), "the model is left to $MODEL"),
        (("vllm", "serve", "someone/something"), "--model-config FILE"),
        (("vllm serve A; vllm serve B",), "2 servers"),
        (("VLLM_ASCEND_ENABLE_FLASHCOMM1=yes", "vllm", "serve", QWEN), "VLLM_ASCEND_ENABLE_FLASHCOMM1=yes"),
        (("vllm serve A -tp 2 # B; vllm serve",), "the model 'A'"),
        ((), "give one of the two"),
    ],
)
def test_commands_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    status, document, error = check(capsys, "--", *words) if words else check(capsys)
    assert (status, document) == (2, None)
    assert message in error


def test_a_config_in_the_models_place(capsys: pytest.CaptureFixture[str]) -> None:
    found = features(capsys, "--model-config", f"{TINY}/config.json", "--", "vllm", "serve", "$MODEL_PATH")
    assert found["mtp_output"]["classes"]["A2"]["family"] == "MLA"


def test_many_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "deployments.jsonl"
    rows = [
        {"command": f"vllm serve {QWEN} \\\n --enforce-eager", "hardware": "A2"},
        {"command": ["vllm", "serve", QWEN, "-pp", "2"], "commands": 3},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    status, document, _ = check(capsys, "--feature", "mtp_output", "--deployments", str(file))
    first, second = document["commands"]
    assert set(first["features"]["mtp_output"]["classes"]) == {"A2"}
    assert set(second["features"]["mtp_output"]["classes"]) == {"A2", "A3"}
    assert sum(document["totals"]["mtp_output"].values()) == 4
    assert status in (0, 1)
    file.write_text(json.dumps({"command": "vllm serve nothing"}))
    status, document, _ = check(capsys, "--deployments", str(file))
    assert status == 2 and "not known" in document["commands"][0]["error"]
    file.write_text("{}")
    status, _, error = check(capsys, "--deployments", str(file))
    assert status == 2 and "deployments.jsonl:1" in error
