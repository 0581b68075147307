# SPDX-License-Identifier: Apache-2.0
"""Versions of vLLM: the tested ones pass, others are refused unless the environment allows them."""

from __future__ import annotations

import pytest

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream import versions


@pytest.mark.parametrize("version", ["0.23.0", "0.23.0+empty"])
def test_tested_versions_pass(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: version)
    assert versions.check_vllm_version() == version


@pytest.mark.parametrize("version", ["0.23.1", "0.32.0", "0.23.0rc1"])
def test_untested_versions_are_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(versions.importlib.metadata, "version", lambda name: version)
    with pytest.raises(IncompatibleVllmError, match=f"vLLM {version} is not a tested version; tested: 0.23.0"):
        versions.check_vllm_version()
    monkeypatch.setenv("VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM", "1")
    assert versions.check_vllm_version() == version
