# SPDX-License-Identifier: Apache-2.0
"""Versions of vLLM and vllm-ascend: tested pairs pass, others are refused unless the environment allows them."""

from __future__ import annotations

import importlib.metadata
import re

import pytest

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream import versions
from vllm_ascend_ext.integration.upstream.versions import PAIRS

FIRST, SECOND = PAIRS


def install(monkeypatch: pytest.MonkeyPatch, vllm: str | None, vllm_ascend: str | None) -> None:
    found = {"vllm": vllm, "vllm-ascend": vllm_ascend}

    def version(name: str) -> str:
        answer = found[name]
        if answer is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return answer

    monkeypatch.setattr(versions.importlib.metadata, "version", version)


def check() -> None:
    versions.check_vllm_version()
    versions.check_vllm_ascend_version()


@pytest.mark.parametrize(
    ("vllm", "vllm_ascend", "pair"),
    [
        ("0.23.0", None, FIRST),
        ("0.23.0+empty", "0.23.0.post1", FIRST),
        ("0.30.0", "0.30.0rc2", SECOND),
        ("0.30.0+empty", "0.30.0rc2+local", SECOND),
    ],
)
def test_tested_versions_pass(
    monkeypatch: pytest.MonkeyPatch, vllm: str, vllm_ascend: str | None, pair: versions.Pair
) -> None:
    install(monkeypatch, vllm, vllm_ascend)
    check()
    assert versions.check_vllm_version() == vllm
    assert versions.check_vllm_ascend_version() == vllm_ascend
    assert versions.installed_pair() == pair


WITHOUT_ASCEND = "tested: 0.23.0. "
BOTH = "tested: vllm-ascend 0.23.0.post1 with vLLM 0.23.0, vllm-ascend 0.30.0rc2 with vLLM 0.30.0. "


@pytest.mark.parametrize(
    ("vllm", "vllm_ascend", "message"),
    [
        ("0.23.1", None, f"vLLM 0.23.1 is not a tested version; {WITHOUT_ASCEND}"),
        ("0.23.0rc1", None, f"vLLM 0.23.0rc1 is not a tested version; {WITHOUT_ASCEND}"),
        ("0.30.0", None, f"vLLM 0.30.0 is not a tested version; {WITHOUT_ASCEND}"),
        ("0.33.0", "0.30.0rc2", "vLLM 0.33.0 is not a tested version; tested: 0.23.0, 0.30.0. "),
        ("0.23.0", "0.30.0rc2", f"vllm-ascend 0.30.0rc2 with vLLM 0.23.0 is not a tested pair; {BOTH}"),
        ("0.30.0", "0.23.0.post1", f"vllm-ascend 0.23.0.post1 with vLLM 0.30.0 is not a tested pair; {BOTH}"),
        ("0.30.0", "0.30.0rc1", f"vllm-ascend 0.30.0rc1 with vLLM 0.30.0 is not a tested pair; {BOTH}"),
    ],
)
def test_others_are_refused_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, vllm: str, vllm_ascend: str | None, message: str
) -> None:
    install(monkeypatch, vllm, vllm_ascend)
    with pytest.raises(IncompatibleVllmError, match=f"^{re.escape(message)}"):
        check()
    monkeypatch.setenv("VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM", "1")
    check()


@pytest.mark.parametrize(
    ("vllm", "vllm_ascend", "pair"),
    [
        ("0.22.0", None, FIRST),
        ("0.33.0", None, FIRST),
        ("0.29.0", "0.29.0rc1", FIRST),
        ("0.31.0", "0.31.0rc1", SECOND),
        (None, None, FIRST),
    ],
)
def test_an_untested_version_is_taken_for_the_last_pair_before_it(
    monkeypatch: pytest.MonkeyPatch, vllm: str | None, vllm_ascend: str | None, pair: versions.Pair
) -> None:
    install(monkeypatch, vllm, vllm_ascend)
    assert versions.installed_pair() == pair
    assert versions.what_to_install("vllm", "vllm_ascend") == (
        f"Install vllm=={pair.vllm} and vllm-ascend=={pair.vllm_ascend}"
    )
