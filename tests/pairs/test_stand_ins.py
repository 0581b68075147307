# SPDX-License-Identifier: Apache-2.0
"""The emulator's stand-ins of each pair whose environment is there: what they stand in for is in its sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from emulator.vllm_ascend.standins import StandIn, for_version
from vllm_ascend_ext.integration.upstream.versions import PAIRS, Pair

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = dict(zip(PAIRS, (".venv-npu", ".venv-npu-030"), strict=True))
# names of the packages themselves; operators have no source, and modules that are stood in for need not be there
NAMED = [
    (pair, stand_in)
    for pair in PAIRS
    for stand_in in for_version(pair.vllm_ascend)
    if stand_in.module.startswith("vllm_ascend.") and stand_in.attribute and "::" not in stand_in.attribute
]


def names_in(file: Path) -> set[str]:
    """What a module defines, imports or assigns, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {name.asname or name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@pytest.mark.parametrize(("pair", "stand_in"), NAMED, ids=[f"{p.vllm_ascend}-{s.target}" for p, s in NAMED])
def test_the_target_is_there(pair: Pair, stand_in: StandIn) -> None:
    folder = next((ROOT / ENVIRONMENTS[pair]).glob("lib/python*/site-packages"), None)
    if folder is None:
        pytest.skip("there is no environment with this pair")
    path = folder.joinpath(*stand_in.module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    assert file.exists(), "the module is gone"
    assert stand_in.attribute.partition(".")[0] in names_in(file), "the name is gone"
