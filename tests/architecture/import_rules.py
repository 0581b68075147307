# SPDX-License-Identifier: Apache-2.0
"""Which file may import what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.architecture.python_source import imports, nodes
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
    "machines": 1,
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
    **dict.fromkeys(("emulator", "tests", "scripts", "benchmarks", "examples"), ()),  # the package stands alone
    **dict.fromkeys(("unittest", "mock", "pytest", "_pytest"), ()),  # and patches nothing
    **dict.fromkeys(("runpy", "pkgutil", "imp"), ()),  # nor imports what cannot be read here
}
# what imports by a text, so that no rule here can read it
DYNAMIC = {"import_module", "__import__", "find_spec", "spec_from_file_location", "exec", "eval"}
UNSEEN = (  # files that import what a table of theirs names
    "integration/upstream/devices.py",
    "integration/upstream/seams/",
    "integration/startup/plugin.py",
    "tools/doctor/",
    "tools/preload.py",
    "tools/demo/run.py",
)


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
    """No room imports one above it, no feature another, and a device's own classes are for device/ alone."""
    room = PurePosixPath(_in_package(path)).parts[0].removesuffix(".py")
    if room == "__init__":
        room = "cli"
    if room not in LEVELS:
        yield f"{path}:1: room {room} has no level in LEVELS"
        return
    for line, name in (*imports(path, source), *_attributes_of_package(source)):
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
        elif target == "device" != room and parts[2:3] in (["cpu"], ["cuda"], ["npu"]):
            yield f"{path}:{line}: imports {name}: what a device is like is asked of `Device`"


def _attributes_of_package(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of each `vllm_ascend_ext.x` in an expression, which needs no import of x."""
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == PACKAGE:
            yield node.lineno, f"{PACKAGE}.{node.attr}"


def integrated_features(tree: Tree) -> Iterator[str]:
    """No feature's folder in integration/ imports another's, nor another feature's core."""
    for feature in sorted(FEATURES):
        for path, source in tree.files(PYTHON, f"{PACKAGE}/integration/{feature}"):
            for line, name in imports(path, source):
                parts = [part for part in name.split(".") if part != "integration"]
                target = parts[1] if parts[0] == PACKAGE and len(parts) > 1 else feature
                if target in FEATURES - {feature}:
                    yield f"{path}:{line}: feature {feature} imports {name} of feature {target}"


def plain_imports(path: str, source: str) -> Iterator[str]:
    """No changes of the import path, and no imports in the package that cannot be read here, but in UNSEEN."""
    is_ours = path.startswith(f"{PACKAGE}/")
    touched = ("path", "meta_path", "path_hooks", *(("modules",) if is_ours else ()))
    if _in_package(path).startswith(("integration/", "tools/")):
        touched = touched[:3]  # may look whether vLLM has loaded a module
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and node.attr in touched and ast.unparse(node.value) == "sys":
            yield f"{path}:{node.lineno}: touches {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield from (f"{path}:{node.lineno}: touches sys.{x.name}" for x in node.names if x.name in touched)
        elif isinstance(node, ast.Import):
            yield from (f"{path}:{node.lineno}: hides sys" for x in node.names if x.name == "sys" and x.asname)
        if is_ours and not _in_package(path).startswith(UNSEEN):
            yield from (f"{path}:{line}: import that cannot be checked: {text}" for line, text in _unseen(node))


def _unseen(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields (line, text) where a node imports, or hands on what imports, without saying here what."""
    if isinstance(node, ast.ImportFrom):
        yield from ((node.lineno, alias.name) for alias in node.names if alias.name in DYNAMIC)
    elif isinstance(node, ast.Call):
        rest = [*node.args, *(keyword.value for keyword in node.keywords)]
        if _dynamic(node.func):
            first = node.args[0] if node.args else None
            is_plain = isinstance(first, ast.Constant) and not str(first.value).startswith(".")
            if not is_plain or _dynamic(node.func) in ("exec", "eval", "spec_from_file_location"):
                yield node.lineno, ast.unparse(node)
        yield from ((node.lineno, ast.unparse(node)) for value in rest if _dynamic(value))
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.Return):
        yield from ((node.lineno, ast.unparse(node)) for value in [node.value] if value and _dynamic(value))


def _dynamic(node: ast.expr) -> str:
    """Returns the name of what imports by a text, given as itself or as a text; empty for anything else."""
    name = getattr(node, "attr", getattr(node, "id", getattr(node, "value", "")))
    is_method = (
        isinstance(node, ast.Attribute) and name in ("exec", "eval") and ast.unparse(node.value) != "builtins"
    )
    return name if isinstance(name, str) and name in DYNAMIC and not is_method else ""


def relative_imports(path: str, source: str) -> Iterator[str]:
    """A relative import stays in its own folder. Only the emulator, which has another name where it is installed,
    never imports itself by its name."""
    is_emulator = path.startswith("emulator/")
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.level > 1 and not is_emulator:
            yield f"{path}:{node.lineno}: relative import over {node.level} levels"
        elif is_emulator and "emulator" in _first_names(node):
            yield f"{path}:{node.lineno}: imports by the name emulator, which is another where pip installs it"


def _first_names(node: ast.AST) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and not node.level:
        names.append(node.module or "")
    return [name.partition(".")[0] for name in names]


def stands_alone(path: str, source: str) -> Iterator[str]:
    """The emulator knows nothing of the package that is tested on it."""
    for line, name in imports(path, source):
        if name.split(".")[0] in (PACKAGE, "tests"):
            yield f"{path}:{line}: imports {name}"


def circles(tree: Tree) -> Iterator[str]:
    """In no folder do files and folders import each other in a circle, wherever in a file the import stands."""
    for top in (PACKAGE, "emulator", "benchmarks", "tests", "scripts", "examples"):
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
