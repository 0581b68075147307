# SPDX-License-Identifier: Apache-2.0
"""Patches: applied all or none, idempotent, and loud when their target has changed."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream import patches
from vllm_ascend_ext.integration.upstream.patches import Patch


@pytest.fixture
def upstream() -> Iterator[types.ModuleType]:
    module = types.ModuleType("upstream_for_test")
    exec("def first(a, b): return 'upstream'\nclass Thing:\n    def second(self): return 'upstream'", vars(module))
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def row(path: str, replacement: object, parameters: tuple[str, ...] | None = None) -> Patch:
    return Patch(f"upstream_for_test:{path}", replacement, "reason", "https://link", "when", parameters)


def test_patches_replace_functions_and_methods_and_repeat_harmlessly(upstream: types.ModuleType) -> None:
    def first(a: object, b: object) -> str:
        return "ours"

    def second(self: object) -> str:
        return "ours"

    rows = [row("first", first, ("a", "b")), row("Thing.second", second)]
    patches.apply_patches(rows)
    patches.apply_patches(rows)
    assert (upstream.first(1, 2), upstream.Thing().second()) == ("ours", "ours")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("gone", None), "upstream_for_test:gone is gone"),
        (row("Thing.gone", None), "Thing.gone is gone"),
        (row("first", None, ("a", "c")), r"first has no parameter c \(it has a, b\)"),
    ],
)
def test_one_changed_target_refuses_all(upstream: types.ModuleType, bad: Patch, message: str) -> None:
    with pytest.raises(IncompatibleVllmError, match=message):
        patches.apply_patches([row("first", lambda a, b: "ours"), bad])
    assert upstream.first(1, 2) == "upstream"


def test_rebind_restores_after_an_exception(upstream: types.ModuleType) -> None:
    with pytest.raises(KeyError), patches.rebind("upstream_for_test:first", len):
        assert upstream.first is len
        raise KeyError
    assert upstream.first(1, 2) == "upstream"


@pytest.mark.parametrize("version", ["0.23.0", "0.23.0+empty"])
def test_tested_versions_pass(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(patches.importlib.metadata, "version", lambda name: version)
    assert patches.check_vllm_version() == version


@pytest.mark.parametrize("version", ["0.23.1", "0.32.0", "0.23.0rc1"])
def test_untested_versions_are_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(patches.importlib.metadata, "version", lambda name: version)
    with pytest.raises(IncompatibleVllmError, match=f"vLLM {version} is not a tested version; tested: 0.23.0"):
        patches.check_vllm_version()
    monkeypatch.setenv("VLLM_ASCEND_EXT_ALLOW_UNTESTED_VLLM", "1")
    assert patches.check_vllm_version() == version


def test_runner_and_worker_classes_stay_two_liners() -> None:
    """What differs between devices is named in the bases; a body would be a second runner in the making."""
    folder = Path(patches.__file__).parents[1] / "workers"
    classes = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
    assert sorted(classes) == [
        f"Ext{device}{role}" for device in ("CPU", "CUDA", "NPU") for role in ("ModelRunner", "Worker")
    ]
    for name, node in classes.items():
        assert len(node.bases) == 2, name
        assert len(node.body) == 1, f"{name} has a body of its own"
        assert not isinstance(node.body[0], ast.FunctionDef), name
