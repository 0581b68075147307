# SPDX-License-Identifier: Apache-2.0
"""Which of op-plugin's files are run: those of operators in the tables, by what op-plugin says of functions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emulator.peers.command import commit
from emulator.peers.covered import of_tables, operators_of_functions, operators_of_tables

FUNCTIONS = """
official:
  - func: fancy(Tensor self) -> Tensor
    gen_opapi:
      exec: aclnnFancy

  - func: fancy_.Scalar(Tensor(a!) self, Scalar by) -> Tensor(a!)
    op_api: all_version

  - func: legacy(Tensor self) -> Tensor
    acl_op: all_version

custom:
  - func: npu_heavy(Tensor self) -> Tensor
    op_api: all_version

  - func: silent(Tensor self) -> Tensor
    op_api: all_version
"""
HEAVY = """
at::Tensor npu_heavy(const at::Tensor& self) {
  EXEC_NPU_CMD(aclnnHeavyV2, self, result);
}
"""
LEGACY = """
at::Tensor& legacy_out(const at::Tensor& self, at::Tensor& result) {
  cmd.Name("Legacy").Input(self).Output(result).Run();
}
"""
LEGACY_HEAVY = """
at::Tensor npu_heavy(const at::Tensor& self) { cmd.Name("Heavy").Run(); }
"""
FILES = {
    "test_fancy_.py": "",
    "test_legacy.py": "",
    "test_heavy.py": "",
    "test_silent.py": "",
    "test_by_its_calls.py": "torch_npu.npu_heavy(x)",
    "test_by_nothing.py": "torch.add(x, x)",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in {
        "op_plugin/config/op_plugin_functions.yaml": FUNCTIONS,
        "op_plugin/ops/opapi/HeavyKernelNpuOpApi.cpp": HEAVY,
        "op_plugin/ops/aclops/LegacyKernelNpu.cpp": LEGACY,
        "op_plugin/ops/aclops/HeavyKernelNpu.cpp": LEGACY_HEAVY,
        **FILES,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_functions_name_their_operators(checkout: Path) -> None:
    assert operators_of_functions(checkout) == {
        "fancy": {"aclnnFancy"},
        "legacy": {"Legacy"},
        "npuheavy": {"aclnnHeavyV2"},  # not those of the interface that it does not use
        "silent": set(),
    }


@pytest.mark.parametrize(
    ("operators", "left_out"),
    [
        ({"aclnnFancy", "aclnnHeavyV2", "Legacy"}, set()),
        ({"aclnnFancy"}, {"test_legacy.py", "test_heavy.py", "test_by_its_calls.py"}),
        ({"Legacy", "Heavy"}, {"test_fancy_.py", "test_heavy.py", "test_by_its_calls.py"}),
        (set(), {"test_fancy_.py", "test_legacy.py", "test_heavy.py", "test_by_its_calls.py"}),
    ],
)
def test_files_without_an_operator_in_the_tables_are_left_out(
    checkout: Path, operators: set[str], left_out: set[str]
) -> None:
    assert set(FILES) - set(of_tables(checkout, FILES, frozenset(operators))) == left_out


def test_the_tables_are_read() -> None:
    found = operators_of_tables()
    assert {"aclnnAdd", "aclnnGroupNorm", "aclnnReflectionPad3dBackward", "BroadcastTo", "CdistGrad"} <= found
    assert len(found) > 600 and "aclnnNoSuchOperator" not in found


def checkout_in(folder: Path) -> Path:
    """A repository with one file and one commit."""
    folder.mkdir()
    (folder / "file").write_text("")
    author = ("-c", "user.name=somebody", "-c", "user.email=nobody@example.org")
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_the_commit_is_known_in_a_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # this folder may be in our own checkout
    assert commit(tmp_path) == ""
    known = commit(checkout_in(tmp_path / "clean"))
    assert len(known) == 7 and int(known, 16) >= 0
    changed = checkout_in(tmp_path / "changed")
    (changed / "file").write_text("other")
    assert commit(changed).endswith("+") and len(commit(changed)) == 8
