# SPDX-License-Identifier: Apache-2.0
"""Holds the package and the emulator to the import rules, names and sizes of their design, by reading them.

Every rule is a function (path in the package, source) -> violations, with seeded bugs that it must find.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
import tomllib
from setuptools import find_packages

PACKAGE = "vllm_ascend_ext"
ROOT = Path(__file__).parents[1] / PACKAGE
EMULATOR = ROOT.parent / "emulator"
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

LEVELS = {
    "config": 0,
    "envs": 0,
    "mtp_record": 0,
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
DEVICE_TYPES = {"cpu", "cuda", "npu"}
OWNERS = {  # module -> the files, or folders, that may import it
    "vllm": ("integration/", "tools/"),
    "vllm_ascend": ("integration/", "tools/"),
    "torch_npu": ("device/npu.py", "ops/ascendc.py"),
    "triton": ("ops/triton/",),
    "emulator": ("emulator/",),  # outside the package, for it must run where the emulator is not
}


def _room(path: str) -> str:
    return PurePosixPath(path).parts[0].removesuffix(".py")


def _dynamic_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
    return name in ("import_module", "__import__", "find_spec")


def _imports(path: str, source: str, package: str = PACKAGE) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything imported; ``from a import b`` gives a.b."""
    here = (package, *PurePosixPath(path).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif _dynamic_import(node) and node.args and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


def import_owners(path: str, source: str) -> Iterator[str]:
    """vLLM, torch_npu and triton only where they belong."""
    for line, name in _imports(path, source):
        owners = OWNERS.get(name.split(".")[0])
        if owners and not any(path == owner or (owner[-1] == "/" and path.startswith(owner)) for owner in owners):
            yield f"{path}:{line}: imports {name}, which belongs in {' or '.join(owners)}"


def arrows(path: str, source: str) -> Iterator[str]:
    """No room imports one above it, and no feature another."""
    room = _room(path)
    if room == "__init__":
        room = "cli"
    if room not in LEVELS:
        yield f"{path}:1: room {room} has no level in LEVELS"
        return
    for line, name in _imports(path, source):
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


def plain_imports(path: str, source: str) -> Iterator[str]:
    """No relative imports beyond the own folder, no path tricks, no imports that cannot be read here."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level > 1:
            yield f"{path}:{node.lineno}: relative import over {node.level} levels"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.path", "sys.meta_path"):
            yield f"{path}:{node.lineno}: touches {ast.unparse(node)}"
        elif _dynamic_import(node) and not path.startswith(("integration/", "tools/")):
            name = node.args[0] if node.args else None
            if not isinstance(name, ast.Constant) or str(name.value).startswith("."):
                yield f"{path}:{node.lineno}: import that cannot be checked: {ast.unparse(node)}"


def environment(path: str, source: str) -> Iterator[str]:
    """The environment is read and written in envs.py only."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    if path == "envs.py":
        return
    for node in ast.walk(ast.parse(source)):
        imported = (
            {alias.name for alias in node.names} & names
            if isinstance(node, ast.ImportFrom) and node.module == "os"
            else set()
        )
        if imported or (isinstance(node, ast.Attribute) and node.attr in names):
            yield f"{path}:{node.lineno}: {ast.unparse(node)} belongs in envs.py"


def _literals(node: ast.AST) -> set[object]:
    return {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)}


def device_branches(path: str, source: str) -> Iterator[str]:
    """Outside device/ a capability is asked for, not the type of the device."""
    if path.startswith("device/"):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            compared = set().union(*map(_literals, sides)) & DEVICE_TYPES
            asked = [ast.unparse(side) for side in sides if not isinstance(side, ast.Constant)]
            if compared and any("device" in text or text.endswith(".type") for text in asked):
                yield f"{path}:{node.lineno}: branches on a device type: {ast.unparse(node)}"
        elif isinstance(node, ast.Match):
            if {value for case in node.cases for value in _literals(case.pattern)} & DEVICE_TYPES:
                yield f"{path}:{node.lineno}: branches on a device type: match {ast.unparse(node.subject)}"
        elif isinstance(node, ast.Attribute) and node.attr in ("is_cuda", "is_npu", "is_cpu"):
            yield f"{path}:{node.lineno}: branches on a device type: {ast.unparse(node)}"


def _bad_name(name: str) -> bool:
    return bool(re.search(r"(^|_)(maybe|v1)(_|$)", name)) or bool(re.search(r"(Maybe|V1)", name))


def names(path: str, source: str) -> Iterator[str]:
    """No utils, no maybe, no v1. Methods under integration/ may override vLLM's of such names."""
    for part in PurePosixPath(path).parts:
        stem = part.removesuffix(".py")
        if stem in ("utils", "util", "helpers", "common", "misc") or _bad_name(stem):
            yield f"{path}:1: the name {part} says nothing"
    tree = ast.parse(source)
    overrides = set()
    if path.startswith("integration/"):
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        overrides = {id(child) for node in classes for child in node.body}
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        if name and _bad_name(name) and id(node) not in overrides:
            yield f"{path}:{node.lineno}: the name {name}"


def sizes(path: str, source: str) -> Iterator[str]:
    """Files and functions stay small."""
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{path}:1: {num_lines} lines, more than {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name}: {num_lines} lines, more than {MAX_FUNCTION_LINES}"


def license_line(path: str, source: str) -> Iterator[str]:
    """Every file begins with its license."""
    if not source.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
        yield f"{path}:1: no SPDX line"


def stands_alone(path: str, source: str) -> Iterator[str]:
    """The emulator knows nothing of the package that is tested on it."""
    for line, name in _imports(path, source, "emulator"):
        if name.split(".")[0] == PACKAGE:
            yield f"emulator/{path}:{line}: imports {name}"


def cpp_sizes(path: str, source: str) -> Iterator[str]:
    """C++ files and functions stay small. A function is what begins with a brace in a line from column 0."""
    lines = source.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{path}:1: {len(lines)} lines, more than {MAX_FILE_LINES}"
    begin = None
    for number, line in enumerate(lines, start=1):
        if len(line) > 115:
            yield f"{path}:{number}: {len(line)} columns"
        if re.match(r"(?!namespace|struct|class|enum|extern|union|constexpr|const|static const)\w.*\{$", line):
            begin = number
        elif line.startswith("}"):
            if begin is not None and number - begin + 1 > MAX_FUNCTION_LINES:
                yield f"{path}:{begin}: function of {number - begin + 1} lines, more than {MAX_FUNCTION_LINES}"
            begin = None


def cpp_license_line(path: str, source: str) -> Iterator[str]:
    """Every C++ file begins with its license."""
    if not source.startswith("// SPDX-License-Identifier: Apache-2.0\n"):
        yield f"{path}:1: no SPDX line"


def cpp_no_cann(path: str, source: str) -> Iterator[str]:
    """No CANN header is included, whose license forbids it (emulator/README.md): only our own and torch's."""
    others = r"(?!ATen/|c10/|torch/|sys/|linux/|asm/)"
    for number, line in enumerate(source.splitlines(), start=1):
        found = re.match(rf"\s*#\s*include\s*[<\"]{others}([^>\"]*/[^>\"]*|(acl|hccl|rt)[^>\"]*)", line)
        if found and not (EMULATOR / "csrc" / found[1]).is_file():
            yield f"{path}:{number}: {line.strip()}"


PACKAGE_RULES = [import_owners, arrows, plain_imports, environment, device_branches, names, sizes, license_line]
EMULATOR_RULES = [stands_alone, names, sizes, license_line]
CPP_RULES = [cpp_sizes, cpp_license_line, cpp_no_cann]


def _emulator_files(*suffixes: str) -> list[Path]:
    return sorted(file for suffix in suffixes for file in EMULATOR.rglob(f"*{suffix}"))


@pytest.mark.parametrize(
    ("rule", "suffixes"),
    [(rule, (".py",)) for rule in EMULATOR_RULES] + [(rule, (".cpp", ".h")) for rule in CPP_RULES],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_emulator_keeps(rule, suffixes):
    files = _emulator_files(*suffixes)
    assert len(files) > 10
    violations = [
        violation
        for file in files
        for violation in rule(file.relative_to(EMULATOR).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("rule", PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule):
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    violations = [
        violation
        for file in files
        for violation in rule(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize("rule", [cpp_sizes, cpp_license_line], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("tree", ["csrc_channel", "csrc_ascendc"])
def test_cpp_keeps(rule, tree):
    folder = ROOT.parent / tree
    files = sorted([*folder.rglob("*.cpp"), *folder.rglob("*.h")])
    assert len(files) > 10
    violations = [
        violation
        for file in files
        for violation in rule(file.relative_to(folder).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not violations, "\n".join(violations)


def test_the_launcher_needs_the_standard_library_only():
    code = f"import sys; sys.path.insert(0, {str(EMULATOR.parent)!r}); import emulator.__main__"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_the_wheel_has_no_emulator():
    config = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    find = config["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(ROOT.parent), **find)
    assert PACKAGE in packages
    assert {package.split(".")[0] for package in packages} == {PACKAGE}


SEEDED = [
    (import_owners, "eplb_load/recorder.py", "from emulator import races"),
    (stands_alone, "races.py", "from vllm_ascend_ext import envs"),
    (stands_alone, "vllm_ascend/atb.py", "def f():\n    import vllm_ascend_ext.ops"),
    (cpp_sizes, "csrc/a.cpp", "int a;\n" * 301),
    (cpp_sizes, "csrc/a.cpp", "int F() {\n" + "  int a;\n" * 49 + "}\n"),
    (cpp_sizes, "csrc/a.cpp", "//" + "x" * 114),
    (cpp_license_line, "csrc/a.cpp", "#include <vector>\n"),
    (cpp_no_cann, "csrc/a.cpp", '#include "acl/acl_rt.h"\n'),
    (cpp_no_cann, "csrc/a.cpp", "# include <hccl/hccl.h>\n"),
    (cpp_no_cann, "csrc/a.cpp", "#include <acl.h>\n"),
    (import_owners, "runner/mixin.py", "import vllm"),
    (import_owners, "eplb_load/recorder.py", "def f():\n    from vllm.config import VllmConfig"),
    (import_owners, "collectives/calls.py", "import importlib\nimportlib.import_module('vllm_ascend.utils')"),
    (import_owners, "ops/expert_load.py", "import torch_npu as t"),
    (import_owners, "device/cuda.py", "from torch_npu import npu"),
    (import_owners, "integration/worker.py", "import torch_npu"),
    (import_owners, "ops/expert_load.py", "import triton.language as tl"),
    (arrows, "ops/expert_load.py", "from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder"),
    (arrows, "device/base.py", "import vllm_ascend_ext.runner.step"),
    (arrows, "collectives/calls.py", "from vllm_ascend_ext import integration"),
    (arrows, "runner/mixin.py", "from vllm_ascend_ext.eplb_load import recorder"),
    (arrows, "runner/mixin.py", "from vllm_ascend_ext.integration import worker"),
    (arrows, "runner/mixin.py", "from ..integration import worker"),
    (arrows, "mtp_output/sender.py", "from vllm_ascend_ext.eplb_load import recorder"),
    (arrows, "dp_gather/plan_cost.py", "from vllm_ascend_ext.mtp_output import frame"),
    (arrows, "config.py", "from vllm_ascend_ext.ops import coverage"),
    (arrows, "gadgets/x.py", "import os"),
    (arrows, "runner/mixin.py", "from vllm_ascend_ext.tools import x"),
    (plain_imports, "eplb_load/recorder.py", "from ..ops import coverage"),
    (plain_imports, "eplb_load/recorder.py", "import sys\nsys.path.insert(0, '.')"),
    (plain_imports, "eplb_load/recorder.py", "import importlib\nimportlib.import_module(name)"),
    (plain_imports, "eplb_load/recorder.py", "import importlib\nimportlib.import_module('.x', 'eplb_load')"),
    (environment, "ops/_library.py", "import os\nos.environ['X'] = '1'"),
    (environment, "integration/worker.py", "import os as o\no.getenv('X')"),
    (environment, "integration/worker.py", "from os import environ as e"),
    (device_branches, "ops/expert_load.py", "if x.device.type == 'npu': pass"),
    (device_branches, "runner/mixin.py", "y = 1 if 'cuda' != device_type else 2"),
    (device_branches, "runner/mixin.py", "if self.device_type in ('cuda', 'npu'): pass"),
    (device_branches, "runner/mixin.py", "if device == torch.device('cpu'): pass"),
    (device_branches, "runner/mixin.py", "match kind:\n    case 'npu' | 'cuda':\n        pass"),
    (device_branches, "eplb_load/recorder.py", "if x.is_cuda: pass"),
    (names, "eplb_load/utils.py", ""),
    (names, "runner/model_runner_v1.py", ""),
    (names, "v1/worker.py", ""),
    (names, "eplb_load/recorder.py", "def maybe_record(): pass"),
    (names, "eplb_load/recorder.py", "def f(maybe_x): pass"),
    (names, "eplb_load/recorder.py", "record_maybe = 1"),
    (names, "integration/worker.py", "def maybe_patch(): pass"),
    (names, "integration/worker.py", "class WorkerV1: pass"),
    (sizes, "eplb_load/recorder.py", "x = 1\n" * 301),
    (sizes, "eplb_load/recorder.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 50),
    (license_line, "eplb_load/recorder.py", "import os\n"),
]

ALLOWED = [
    (cpp_sizes, "csrc/a.cpp", "namespace emu {\n" + "int a;\n" * 60 + "}\n"),
    (cpp_sizes, "csrc/a.cpp", "int F() {\n" + "  int a;\n" * 48 + "}\n"),
    (cpp_no_cann, "csrc/acl/a.cpp", '#include "core/stream.h"\n#include <sys/mman.h>\n#include <vector>\n'),
    (cpp_no_cann, "csrc/opapi/a.cpp", "#include <ATen/ATen.h>\n"),
    (stands_alone, "races.py", "import ctypes\nfrom emulator import checkout"),
    (import_owners, "integration/worker.py", "import vllm\nfrom vllm_ascend import utils"),
    (import_owners, "eplb_load/recorder.py", "import vllm_ascend_ext.ops"),
    (import_owners, "device/npu.py", "import importlib\nimportlib.import_module('torch_npu')"),
    (import_owners, "ops/triton/expert_load.py", "import triton"),
    (
        arrows,
        "eplb_load/recorder.py",
        "from vllm_ascend_ext.ops import coverage\nfrom vllm_ascend_ext.eplb_load import x",
    ),
    (arrows, "__init__.py", "from vllm_ascend_ext.cli import main"),
    (arrows, "cli.py", "from vllm_ascend_ext import __version__, runner"),
    (plain_imports, "eplb_load/__init__.py", "from .recorder import ExpertLoadRecorder"),
    (plain_imports, "integration/upstream/seams/change.py", "import importlib\nimportlib.import_module(target)"),
    (environment, "envs.py", "import os\nos.environ['X'] = '1'"),
    (environment, "cli.py", "from vllm_ascend_ext import envs\nenvs.export({'X': '1'})"),
    (device_branches, "device/npu.py", "if x.device.type == 'npu': pass"),
    (device_branches, "runner/mixin.py", "if device.capabilities.graph_capture and kind == 'cpu': pass"),
    (names, "integration/worker.py", "from vllm.v1 import worker\nclass A:\n    def maybe_x(self): pass"),
    (sizes, "eplb_load/recorder.py", "def f():\n" + "    x = 1\n" * 49),
]


@pytest.mark.parametrize(("rule", "path", "source"), SEEDED)
def test_seeded_bug_is_found(rule, path, source):
    assert list(rule(path, source))


@pytest.mark.parametrize(("rule", "path", "source"), ALLOWED)
def test_allowed_code_passes(rule, path, source):
    assert not list(rule(path, source))
