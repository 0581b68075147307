# SPDX-License-Identifier: Apache-2.0
"""Violations to plant into real files of a copy of the checkout, at least one a rule.

A plant is a few changes of files; the rule must name `at`, the first of them unless another is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Change = Callable[[str], str]  # text of the file as it is, empty where there is none -> text with the violation


@dataclass(frozen=True)
class Plant:
    """One violation. rule: name of the rule that must find it; says: words of what the rule says."""

    rule: str
    changes: dict[str, Change]
    says: str
    at: str = ""

    @property
    def place(self) -> str:
        """Returns the file or folder that the rule must name."""
        return self.at or next(iter(self.changes))

    def __str__(self) -> str:
        return f"{self.rule}-{self.place}"


def _below(text: str) -> Change:
    """Appends `text` to the file."""
    return lambda source: source + text


def _above(text: str) -> Change:
    """Puts `text` before the file's first line."""
    return lambda source: text + source


def _new(text: str) -> Change:
    def change(source: str) -> str:
        assert not source, "the file is there already"
        return text

    return change


def _instead(old: str, new: str) -> Change:
    def change(source: str) -> str:
        assert old in source, f"{old} is not in the file any more"
        return source.replace(old, new, 1)

    return change


PACKAGE = "vllm_ascend_ext"
RECORDER = f"{PACKAGE}/eplb_load/recorder.py"
UTILS = {f"{PACKAGE}/eplb_load/utils.py": _new("x = 1\n" * 901)}
LONG_FUNCTION = "\n\ndef long_function() -> None:\n" + "    print()\n" * 50
LONG_CPP = "\nvoid LongFunction(int a,\n                  int b) {\n" + "  a = b;\n" * 48 + "}\n"
WIDE_CPP = "// " + "x" * 113 + "\n"

IMPORTS = [
    Plant("import_owners", {RECORDER: _below("\nimport vllm_ascend\n")}, "imports vllm_ascend"),
    Plant("import_owners", {f"{PACKAGE}/runner/mixin.py": _below("\nimport vllm\n")}, "imports vllm"),
    Plant("import_owners", {f"{PACKAGE}/integration/worker.py": _below("\nimport torch_npu\n")}, "torch_npu"),
    Plant("import_owners", {f"{PACKAGE}/ops/coverage.py": _below("\nimport triton\n")}, "imports triton"),
    Plant("import_owners", {f"{PACKAGE}/cli.py": _below("\nimport emulator.races\n")}, "imports emulator"),
    Plant("arrows", {f"{PACKAGE}/config.py": _below(f"\nfrom {PACKAGE} import integration\n")}, "from above"),
    Plant("arrows", {RECORDER: _below(f"\nimport {PACKAGE}.dp_gather.plan\n")}, "imports feature dp_gather"),
    Plant("arrows", {f"{PACKAGE}/gadgets/gadget.py": _new("")}, "no level"),
    Plant("plain_imports", {RECORDER: _below("\nimport sys\n\nsys.path.append('.')\n")}, "touches sys.path"),
    Plant(
        "plain_imports", {RECORDER: _below("\nimport importlib\n\nimportlib.import_module(__name__)\n")}, "checked"
    ),
    Plant(
        "plain_imports", {"benchmarks/eplb_load.py": _below("\nimport sys\n\nsys.path.append('.')\n")}, "touches"
    ),
    Plant("import_targets", {"tests/conftest.py": _below("\nfrom tests.support import gone\n")}, "support.gone"),
    Plant("import_targets", {RECORDER: _below(f"\nfrom {PACKAGE}.config import gone\n")}, "config.gone"),
    Plant("import_targets", {"scripts/train_tiny_model.py": _below("\nimport emulator.gone.far\n")}, "gone.far"),
    Plant("relative_imports", {RECORDER: _below("\nfrom ..ops import coverage\n")}, "over 2 levels"),
    Plant("relative_imports", {"emulator/launcher/build.py": _below("\nimport emulator.races\n")}, "by the name"),
    Plant("stands_alone", {"emulator/races.py": _below(f"\nimport {PACKAGE}\n")}, f"imports {PACKAGE}"),
    Plant(
        "integrated_features",
        {
            f"{PACKAGE}/integration/mtp_output/bind.py": _below(
                f"\nfrom {PACKAGE}.integration.eplb_load import bind\n"
            )
        },
        "of feature eplb_load",
    ),
    Plant(
        "circles",
        {
            f"{PACKAGE}/integration/upstream/versions.py": _below(
                f"\nimport {PACKAGE}.integration.startup.plugin\n"
            )
        },
        f"closes a circle in {PACKAGE}/integration: upstream imports startup",
    ),
    Plant(
        "circles",
        {f"{PACKAGE}/device/base.py": _below(f"\ndef f() -> None:\n    import {PACKAGE}.device.npu\n")},
        "base.py imports npu.py imports base.py",
    ),
    Plant("circles", {"emulator/startup.py": _below("\nimport emulator.launcher.launch\n")}, "circle in emulator"),
]
PYTHON = [
    Plant("environment", {RECORDER: _below("\nimport os\n\nos.environ['X'] = '1'\n")}, "belongs in envs.py"),
    Plant("device_branches", {RECORDER: _below("\nif __name__.device.type == 'npu':\n    pass\n")}, "device type"),
    Plant("names", {RECORDER: _below("\n\ndef maybe_record() -> None: ...\n")}, "maybe_record"),
    Plant("names", {"emulator/races.py": _below("\nracesV1 = 1\n")}, "racesV1"),
    Plant("names", {"tests/conftest.py": _below("\nmaybe_there = 1\n")}, "maybe_there"),
    Plant("sizes", UTILS, "901 lines"),
    Plant("sizes", {RECORDER: _below(LONG_FUNCTION)}, "long_function: 51 lines"),
    Plant("sizes", {"emulator/launcher/launch.py": _below(LONG_FUNCTION)}, "long_function: 51 lines"),
    Plant("sizes", {"benchmarks/eplb_load.py": _below("x = 1\n" * 300)}, "more than 300"),
    Plant("sizes", {"scripts/tiny_model/model.py": _below(LONG_FUNCTION)}, "long_function: 51 lines"),
]
CPP = [
    Plant("cpp_sizes", {"emulator/csrc/core/stream.cpp": _below("int a;\n" * 300)}, "more than 300"),
    Plant("cpp_sizes", {"csrc_channel/module.cpp": _below(WIDE_CPP)}, "116 columns"),
    Plant("cpp_sizes", {"csrc_ascendc/expert_load/kernel.h": _below(WIDE_CPP)}, "116 columns"),
    Plant("cpp_function_sizes", {"emulator/csrc/core/event.cpp": _below(LONG_CPP)}, "function of 51 lines"),
    Plant("cpp_function_sizes", {"csrc_channel/module.cpp": _below(LONG_CPP)}, "function of 51 lines"),
    Plant("cpp_function_sizes", {"csrc_ascendc/host/core.cpp": _below(LONG_CPP)}, "function of 51 lines"),
    Plant("cpp_names", {"csrc_channel/mtp_ring.h": _below("void MaybeSend();\n")}, "MaybeSend"),
    Plant("cpp_no_cann", {"emulator/csrc/acl/event.cpp": _below('#include "acl/acl_rt.h"\n')}, "acl/acl_rt.h"),
    Plant("cpp_no_cann", {"csrc_ascendc/torch_npu.h": _below("#include <acl.h>\n")}, "acl.h"),
]
TREE = [
    Plant("license_line", UTILS, "no SPDX line"),
    Plant("license_line", {"csrc_channel/module.cpp": _above("\n")}, "no SPDX line"),
    Plant("license_line", {"emulator/races.py": _above("import os\n")}, "no SPDX line"),
    Plant("license_line", {"scripts/env.sh": _above("set -e\n")}, "no SPDX line"),
    Plant("license_line", {"emulator/csrc/opapi/tables/rope.def": _above("\n")}, "no SPDX line"),
    Plant("file_names", UTILS, "utils.py says nothing"),
    Plant("file_names", {"csrc_ascendc/host/helpers.h": _new("")}, "helpers.h says nothing"),
    Plant("file_names", {f"{PACKAGE}/v1/worker.py": _new("")}, "v1 says nothing"),
    Plant(
        "folder_sizes",
        {f"emulator/csrc/core/part{number}.cpp": _new("") for number in range(4)},
        "15 source files",
        at="emulator/csrc/core",
    ),
    Plant(
        "folder_sizes",
        {f"{PACKAGE}/integration/eplb_load/part{number}.py": _new("") for number in range(14)},
        "more than 14",
        at=f"{PACKAGE}/integration/eplb_load",
    ),
    Plant(
        "launcher_alone",
        {"emulator/launcher/build.py": _below("\nimport torch\n")},
        "torch",
        "emulator/__main__.py",
    ),
    Plant("wheel_contents", {"pyproject.toml": _instead('include = ["vllm_ascend_ext*"]', "")}, "emulator"),
]

WORDS_AND_SEAMS = [
    Plant(
        "foreign_objects",
        {f"{PACKAGE}/integration/dp_gather/vllm_exchange.py": _below("\n\ndef f(runner):\n    runner.x = 1\n")},
        "sets runner.x of a foreign object",
    ),
    Plant(
        "docstring_beginnings",
        {RECORDER: _below('\n\ndef f() -> None:\n    """What is counted."""\n')},
        "begins with 'What'",
    ),
]

EXCHANGE = f"{PACKAGE}/integration/dp_gather/vllm_exchange.py"
CORE_CPP = "csrc_ascendc/host/core.cpp"
BODY = "  a = b;\n" * 50 + "}\n"
# rule, file, what is put below it, words of what the rule says: ways around a rule
EVASIONS = [
    ("plain_imports", RECORDER, "from importlib import import_module as load\n", "import_module"),
    ("plain_imports", RECORDER, "import importlib\nload = importlib.import_module\n", "load = importlib"),
    ("plain_imports", RECORDER, "import importlib\ngetattr(importlib, 'import_module')('vllm')\n", "getattr"),
    ("plain_imports", RECORDER, "import functools\nload = functools.partial(__import__, 'vllm')\n", "partial"),
    ("plain_imports", RECORDER, "exec('import vllm')\n", "exec"),
    ("plain_imports", RECORDER, "import sys\nvllm = sys.modules['vllm']\n", "touches sys.modules"),
    ("plain_imports", RECORDER, "from sys import path\n", "touches sys.path"),
    ("import_owners", RECORDER, "import runpy\n", "imports runpy"),
    ("import_owners", RECORDER, "from tests.support import reference\n", "imports tests"),
    ("import_owners", EXCHANGE, "from unittest.mock import patch\n", "imports unittest"),
    ("arrows", RECORDER, f"import {PACKAGE}\nx = {PACKAGE}.integration\n", "from above"),
    ("arrows", EXCHANGE, f"from {PACKAGE}.device.npu import NpuDevice\n", "is asked of `Device`"),
    ("integrated_features", EXCHANGE, f"import {PACKAGE}.eplb_load.recorder\n", "of feature eplb_load"),
    ("environment", RECORDER, "import os\nx = getattr(os, 'environ')\n", "belongs in envs.py"),
    ("environment", RECORDER, "from os import *\n", "belongs in envs.py"),
    ("environment", RECORDER, "from posix import environ\n", "belongs in envs.py"),
    ("device_branches", RECORDER, "def f(kind):\n    return str(kind).startswith('npu:')\n", "startswith"),
    ("device_branches", RECORDER, "def f(kind):\n    return {'npu': 1, 'cuda': 2}[kind]\n", "[kind]"),
    ("device_branches", RECORDER, "KIND = 'npu'\n\n\ndef f(x):\n    return x == KIND\n", "x == KIND"),
    ("device_branches", RECORDER, "import torch\nx = torch.cuda.is_available()\n", "is_available"),
    ("device_branches", RECORDER, "import torch\nx = hasattr(torch, 'npu')\n", "hasattr"),
    ("names", EXCHANGE, "class Stack:\n    routes_itself = True\n", "the flag routes_itself"),
    ("names", EXCHANGE, "def f(stack):\n    return stack.routes_itself\n", "the flag routes_itself"),
    ("names", RECORDER, "def count_helper():\n    pass\n", "count_helper"),
    ("names", RECORDER, "MAYBE_COUNTED = 1\n", "MAYBE_COUNTED"),
    ("sizes", RECORDER, "@property\n" * 20 + "def f():\n" + "    print()\n" * 30, "f: 51 lines"),
    ("sizes", RECORDER, "f = lambda: [\n" + "    1,\n" * 50 + "]\n", "lambda: 52 lines"),
    ("script_sizes", "cmake/sources.cmake", "# x\n" * 300, "more than 300"),
    ("foreign_objects", EXCHANGE, "def f(r):\n    list(map(setattr, [r], ['x'], [1]))\n", "handed on"),
    ("foreign_objects", EXCHANGE, "def f(r):\n    d = vars(r)\n    d['x'] = 1\n", "sets vars(r)"),
    ("foreign_objects", EXCHANGE, "def forward(self):\n    self.x = 1\n", "sets self.x"),
    ("foreign_objects", f"{PACKAGE}/runner/mixin.py", "def f(layer):\n    layer.x = 1\n", "sets layer.x"),
    ("cpp_function_sizes", CORE_CPP, "const char* F() {\n" + BODY, "function of 52 lines"),
    ("cpp_function_sizes", CORE_CPP, 'extern "C" int F() {  // words\n' + BODY, "function of 52 lines"),
    ("cpp_function_sizes", CORE_CPP, "const auto kF = [] {\n" + BODY.replace("}", "};"), "function of 52 lines"),
    ("cpp_function_sizes", CORE_CPP, "#define F() \\\n" + "  a = b; \\\n" * 50 + "  c\n", "function of 52 lines"),
    ("cpp_no_cann", CORE_CPP, '#if __has_include("acl/acl.h")\n#endif\n', "includes acl/acl.h"),
    ("cpp_no_cann", CORE_CPP, '#define H "acl/acl.h"\n#include H\n', "includes H"),
    ("cpp_no_cann", CORE_CPP, "#include <kernel_tensor.h>\n", "includes kernel_tensor.h"),
    ("cpp_no_cann", "emulator/csrc/opapi/tables/rope.def", '#include "ge_api.h"\n', "includes ge_api.h"),
]
AROUND = [Plant(rule, {file: _below(f"\n\n{text}")}, says) for rule, file, text, says in EVASIONS]
KINDS = [
    Plant("file_kinds", {"csrc_channel/ring.cc": _new("")}, "no rule reads"),
    Plant(
        "circles",
        {
            "scripts/structure.py": _below("\nimport scripts.docs_pages\n"),
            "scripts/docs_pages.py": _below("\nimport scripts.structure\n"),
        },
        "closes a circle in scripts",
    ),
]

PLANTS: list[Plant] = [*IMPORTS, *PYTHON, *CPP, *TREE, *WORDS_AND_SEAMS, *AROUND, *KINDS]
