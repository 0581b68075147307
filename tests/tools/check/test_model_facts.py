# SPDX-License-Identifier: Apache-2.0
"""What is known of a model: from its folder, a config.json alone, or its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_ascend_ext.tools.check.errors import CommandError
from vllm_ascend_ext.tools.check.model_facts import DESCRIPTION, read_model, scheme_of

CONFIG = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "text_config": {"num_experts": 128, "num_experts_per_tok": 8},
}


def test_a_folder_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    for name in (str(tmp_path), str(file)):
        facts = read_model(name, None, {})
        assert (facts.num_experts, facts.top_k, facts.family) == (128, 8, "GQA")
        assert (facts.quantization, facts.scheme) == (None, "")
    assert read_model("$MODEL", file, {}).num_experts == 128
    overrides = {"text_config": {"index_topk": 1, "n_routed_experts": [4]}}
    assert read_model(str(file), None, overrides).num_experts == 4
    (tmp_path / DESCRIPTION).write_text(json.dumps({"a": "FLOAT", "b": "W8A8_DYNAMIC"}))
    facts = read_model(str(tmp_path), None, {})
    assert (facts.quantization, facts.scheme) == ("ascend", "w8a8")
    assert facts.described_layers == {"a": "FLOAT", "b": "W8A8_DYNAMIC"}


def test_weights_that_say_themselves_how_they_are_quantised(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "fp8"}}))
    facts = read_model(str(file), None, {})
    assert (facts.quantization, facts.scheme) == ("fp8", "fp8")


@pytest.mark.parametrize(
    ("name", "family", "experts"),
    [
        ("/weights/DeepSeek-V3.1_w8a8mix_mtp", "MLA", 256),
        ("deepseek-ai/DeepSeek-R1", "MLA", 256),
        ("vllm-ascend/DeepSeek-V3.2-W8A8", "sparse MLA", 256),
        ("GLM5-w4a8", "sparse MLA", 256),
        ("zai-org/GLM-4.7", "GQA", 160),
        ("DeepSeek-V4-Flash-w8a8-mtp", "DeepSeek-V4", 256),
        ("moonshotai/Kimi-K2.5", "MLA", 384),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507/", "GQA", 128),
        ("Qwen3.5-397B-A17B-w8a8-mtp", "linear attention", 512),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "GQA", 8),
    ],
)
def test_names(name: str, family: str, experts: int) -> None:
    facts = read_model(name, None, {})
    assert (facts.family, facts.num_experts) == (family, experts)
    assert facts.quantization == ("ascend" if scheme_of(name) else None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-org/my-model", "'my-org/my-model' is no folder and not known: give its folder, or its config.json"),
        ("$MODEL_PATH", r"the model is left to \$MODEL_PATH: give"),
        ("Qwen/Qwen2.5-7B", "not known"),
    ],
)
def test_unknown_names_ask_for_a_config(name: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        read_model(name, None, {})


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no such file"):
        read_model("Qwen3-30B-A3B", tmp_path / "none.json", {})
    file = tmp_path / "config.json"
    for text, words in (("{", "not JSON"), ("[]", "holds no mapping")):
        file.write_text(text)
        with pytest.raises(CommandError, match=words):
            read_model(str(file), None, {})
