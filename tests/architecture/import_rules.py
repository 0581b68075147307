# SPDX-License-Identifier: Apache-2.0
"""Which file may import what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.architecture.python_source import imports, is_dynamic_import, nodes
from tests.architecture.tree import PACKAGE, PYTHON, FileRule, Rule, Tree, TreeRule

LEVELS = {
    "config": 0,
    "envs": 0,
    "mtp_record": 0,
    "printable": 0,
    "drafts": 0,
    "rank_place": 0,
    "device": 1,
    "ops": 1,
    "collectives": 1,
    "runner": 1,
    "eplb_load": 2,
    "dp_gather": 2,
    "attn_scatter": 2,
    "mtp_output": 2,
    "integration": 3,
    "tools": 4,
    "commands": 5,
    "cli": 6,
}
FEATURES = {"eplb_load", "dp_gather", "attn_scatter", "mtp_output"}
OWNERS = {  # module -> the files, or folders, of the package that may import it
    "vllm": ("integration/", "tools/"),
    "vllm_ascend": ("integration/", "tools/"),
    "torch_npu": ("device/npu.py", "ops/ascendc.py"),
    "triton": ("ops/triton/",),
    "emulator": (),  # the package must run where the emulator is not
}


def _in_package(path: str) -> str:
    return path.removeprefix(f"{PACKAGE}/")


def import_owners(path: str, source: str) -> Iterator[str]:
    """vLLM, vllm-ascend, torch_npu and triton are imported only where they belong."""
    inside = _in_package(path)
    for line, name in imports(path, source):
        owners = OWNERS.get(name.split(".")[0])
        if owners is None or any(
            inside == owner or (owner[-1] == "/" and inside.startswith(owner)) for owner in owners
        ):
            continue
        yield f"{path}:{line}: imports {name}, which belongs in {' or '.join(owners) or 'no file of the package'}"


def arrows(path: str, source: str) -> Iterator[str]:
    """No room imports one above it, and no feature another."""
    room = PurePosixPath(_in_package(path)).parts[0].removesuffix(".py")
    if room == "__init__":
        room = "cli"
    if room not in LEVELS:
        yield f"{path}:1: room {room} has no level in LEVELS"
        return
    for line, name in imports(path, source):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) < 2 or parts[1].startswith("__"):
            continue
        target = parts[1]
        if target not in LEVELS:
            yield f"{path}:{line}: imports {name}, whose room has no level in LEVELS"
        elif LEVELS[target] > LEVELS[room]:
            yield f"{path}:{line}: {room} imports {name} from above"
        elif {room, target} <= FEATURES and room != target:
            yield f"{path}:{line}: feature {room} imports feature {target}"


def integrated_features(tree: Tree) -> Iterator[str]:
    """No feature's folder in integration/ imports another's."""
    for feature in sorted(FEATURES):
        for path, source in tree.files(PYTHON, f"{PACKAGE}/integration/{feature}"):
            for line, name in imports(path, source):
                parts = name.split(".")
                target = parts[2] if parts[:2] == [PACKAGE, "integration"] and len(parts) > 2 else feature
                if target in FEATURES - {feature}:
                    yield f"{path}:{line}: feature {feature} imports {name} of feature {target}"


def plain_imports(path: str, source: str) -> Iterator[str]:
    """No changes of the import path, and no imports in the core that cannot be read here."""
    for node in nodes(source):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("path", "meta_path")
            and ast.unparse(node.value) == "sys"
        ):
            yield f"{path}:{node.lineno}: touches {ast.unparse(node)}"
        elif is_dynamic_import(node) and path.startswith(f"{PACKAGE}/"):
            if _in_package(path).startswith(("integration/", "tools/")):
                continue
            assert isinstance(node, ast.Call)
            name = node.args[0] if node.args else None
            if not isinstance(name, ast.Constant) or str(name.value).startswith("."):
                yield f"{path}:{node.lineno}: import that cannot be checked: {ast.unparse(node)}"


def relative_imports(path: str, source: str) -> Iterator[str]:
    """A relative import stays in its own folder."""
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.level > 1:
            yield f"{path}:{node.lineno}: relative import over {node.level} levels"


def stands_alone(path: str, source: str) -> Iterator[str]:
    """The emulator knows nothing of the package that is tested on it."""
    for line, name in imports(path, source):
        if name.split(".")[0] in (PACKAGE, "tests"):
            yield f"{path}:{line}: imports {name}"


def circles(tree: Tree) -> Iterator[str]:
    """In no folder do files and folders import each other in a circle, wherever in a file the import stands."""
    for top in (PACKAGE, "emulator", "benchmarks", "tests"):
        edges = list(_edges(tree, top))
        folders = {
            parent for path in tree.paths if path.startswith(f"{top}/") for parent in PurePosixPath(path).parents
        }
        for folder in sorted(str(parent) for parent in folders if str(parent).startswith(top)):
            yield from _circles_in(folder, edges)


def _edges(tree: Tree, top: str) -> Iterator[tuple[str, int, str]]:
    """Yields (importing file, line, imported file) of every import between two files of `top`."""
    files = dict(tree.files(PYTHON, top))
    for path, source in files.items():
        for line, name in imports(path, source):
            parts = name.split(".")
            tries = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
            found = (file for start in tries for file in (f"{start}.py", f"{start}/__init__.py") if file in files)
            target = next(found, path)
            if target != path:
                yield path, line, target


def _circles_in(folder: str, edges: list[tuple[str, int, str]]) -> Iterator[str]:
    depth = len(PurePosixPath(folder).parts)
    arrows: dict[str, set[str]] = {}
    inner = [edge for edge in edges if edge[0].startswith(f"{folder}/") and edge[2].startswith(f"{folder}/")]
    rooms = [(PurePosixPath(path).parts[depth], PurePosixPath(target).parts[depth]) for path, _, target in inner]
    for room, target in rooms:
        if room != target:
            arrows.setdefault(room, set()).add(target)
    for (path, line, _), (room, target) in zip(inner, rooms, strict=True):
        if room != target and (back := _way(target, room, arrows)):
            yield f"{path}:{line}: closes a circle in {folder}: {' imports '.join((room, *back))}"


def _way(begin: str, end: str, arrows: dict[str, set[str]]) -> list[str]:
    """Returns the rooms of a shortest way along the arrows, empty when there is none."""
    ways, seen = [[begin]], {begin}
    while ways:
        way = ways.pop(0)
        if way[-1] == end:
            return way
        for room in sorted(arrows.get(way[-1], set()) - seen):
            seen.add(room)
            ways.append([*way, room])
    return []


RULES: list[Rule] = [
    FileRule(import_owners, PYTHON, (PACKAGE,)),
    FileRule(arrows, PYTHON, (PACKAGE,)),
    FileRule(plain_imports, PYTHON, (PACKAGE, "tests", "benchmarks", "scripts")),
    FileRule(relative_imports, PYTHON),
    FileRule(stands_alone, PYTHON, ("emulator",)),
    TreeRule(integrated_features),
    TreeRule(circles),
]
