# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from vllm_ascend_ext import envs


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in envs.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    assert envs.VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM is False
    assert envs.VLLM_ASCEND_EXT_STRICT_OPS is False
    assert envs.VLLM_ASCEND_EXT_BUILD == "auto"


@pytest.mark.parametrize(("spelling", "value"), [("1", True), ("True", True), ("0", False), ("false", False)])
def test_switches_are_read_when_asked_for(monkeypatch, spelling, value):
    monkeypatch.setenv("VLLM_ASCEND_EXT_STRICT_OPS", spelling)
    assert envs.VLLM_ASCEND_EXT_STRICT_OPS is value


def test_any_text_is_taken_as_it_is(monkeypatch):
    assert envs.VLLM_ASCEND_EXT_LIB == ""
    monkeypatch.setenv("VLLM_ASCEND_EXT_LIB", "/opt/Kernels")
    assert envs.VLLM_ASCEND_EXT_LIB == "/opt/Kernels"


@pytest.mark.parametrize("name", [name for name, variable in envs.ENVIRONMENT.items() if variable.values])
@pytest.mark.parametrize("spelling", ["", "yes", "2", "gpu"])
def test_bad_value_raises_and_names_the_choices(monkeypatch, name, spelling):
    monkeypatch.setenv(name, spelling)
    with pytest.raises(envs.EnvironmentVariableError, match=f"{name}='{spelling}': expected one of"):
        getattr(envs, name)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="VLLM_ASCEND_EXT_NONSENSE"):
        _ = envs.VLLM_ASCEND_EXT_NONSENSE


def test_table_is_small_documented_and_prefixed():
    assert len(envs.ENVIRONMENT) <= 6
    for name, variable in envs.ENVIRONMENT.items():
        assert name == variable.name and name.startswith("VLLM_ASCEND_EXT_")
        assert variable.meaning.endswith(".")
        variable.meaning_of(variable.default)


def test_export_reaches_child_processes(monkeypatch):
    monkeypatch.setenv("VLLM_ASCEND_EXT_BUILD", "none")  # so that monkeypatch restores it
    envs.export({"VLLM_ASCEND_EXT_BUILD": "host"})
    child = [sys.executable, "-c", "import os; print(os.environ['VLLM_ASCEND_EXT_BUILD'])"]
    assert subprocess.check_output(child, text=True, env=os.environ.copy()).strip() == "host"
    assert envs.VLLM_ASCEND_EXT_BUILD == "host"
