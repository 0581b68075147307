# SPDX-License-Identifier: Apache-2.0
"""Sources that the rules must find fault with, and sources that they must let pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.architecture.cpp_rules import cpp_function_sizes, cpp_names, cpp_no_cann, cpp_sizes
from tests.architecture.import_rules import (
    arrows,
    circles,
    import_owners,
    integrated_features,
    plain_imports,
    relative_imports,
    stands_alone,
)
from tests.architecture.python_rules import device_branches, environment, names, sizes
from tests.architecture.tree import FileCheck, Tree
from tests.architecture.tree_rules import file_names, folder_sizes, license_line

SEEDED: list[tuple[FileCheck, str, str]] = [
    (import_owners, "vllm_ascend_ext/eplb_load/recorder.py", "from emulator import races"),
    (stands_alone, "emulator/races.py", "from vllm_ascend_ext import envs"),
    (stands_alone, "emulator/races.py", "from tests.support import reference"),
    (stands_alone, "emulator/vllm_ascend/atb.py", "def f():\n    import vllm_ascend_ext.ops"),
    (cpp_sizes, "emulator/csrc/a.cpp", "int a;\n" * 301),
    (cpp_function_sizes, "emulator/csrc/a.cpp", "int F() {\n" + "  int a;\n" * 49 + "}\n"),
    (cpp_sizes, "emulator/csrc/a.cpp", "//" + "x" * 114),
    (cpp_function_sizes, "csrc_ascendc/a.h", "struct A {\n  int F() {\n" + "    int a;\n" * 49 + "  }\n};\n"),
    (
        cpp_function_sizes,
        "csrc_channel/a.cpp",
        "A::A(int a,\n     int b)\n    : a_(a) {\n" + "  int c;\n" * 47 + "}\n",
    ),
    (
        cpp_function_sizes,
        "csrc_channel/a.h",
        "class A {\n  struct B {\n    int F() {\n" + "      a;\n" * 49 + "    }\n  };\n};\n",
    ),
    (cpp_function_sizes, "csrc_channel/a.h", "A::A(int a)\n    : a_{a}, b_(b) {\n" + "  a;\n" * 48 + "}\n"),
    (cpp_function_sizes, "csrc_channel/a.h", "void F(A a = {}, char c = '{')\n{\n" + "  a;\n" * 48 + "}\n"),
    (cpp_names, "csrc_channel/a.cpp", "void MaybeSend();\n"),
    (cpp_names, "csrc_channel/a.cpp", "int maybe_sent = 0;\n"),
    (license_line, "emulator/csrc/a.cpp", "#include <vector>\n"),
    (license_line, "scripts/a.sh", "#!/bin/sh\n# Runs.\n"),
    (license_line, "cmake/a.cmake", ""),
    (import_owners, "vllm_ascend_ext/runner/mixin.py", "import vllm"),
    (import_owners, "vllm_ascend_ext/eplb_load/recorder.py", "def f():\n    from vllm.config import VllmConfig"),
    (
        import_owners,
        "vllm_ascend_ext/collectives/calls.py",
        "import importlib\nimportlib.import_module('vllm_ascend.utils')",
    ),
    (import_owners, "vllm_ascend_ext/ops/expert_load.py", "import torch_npu as t"),
    (import_owners, "vllm_ascend_ext/device/cuda.py", "from torch_npu import npu"),
    (import_owners, "vllm_ascend_ext/integration/worker.py", "import torch_npu"),
    (import_owners, "vllm_ascend_ext/ops/expert_load.py", "import triton.language as tl"),
    (
        arrows,
        "vllm_ascend_ext/ops/expert_load.py",
        "from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder",
    ),
    (arrows, "vllm_ascend_ext/device/base.py", "import vllm_ascend_ext.eplb_load.recorder"),
    (arrows, "vllm_ascend_ext/collectives/calls.py", "from vllm_ascend_ext import integration"),
    (arrows, "vllm_ascend_ext/runner/mixin.py", "from vllm_ascend_ext.eplb_load import recorder"),
    (arrows, "vllm_ascend_ext/runner/mixin.py", "from vllm_ascend_ext.integration import worker"),
    (arrows, "vllm_ascend_ext/runner/mixin.py", "from ..integration import worker"),
    (arrows, "vllm_ascend_ext/mtp_output/sender.py", "from vllm_ascend_ext.eplb_load import recorder"),
    (arrows, "vllm_ascend_ext/dp_gather/plan_cost.py", "from vllm_ascend_ext.mtp_output import frame"),
    (arrows, "vllm_ascend_ext/config.py", "from vllm_ascend_ext.ops import coverage"),
    (arrows, "vllm_ascend_ext/gadgets/x.py", "import os"),
    (arrows, "vllm_ascend_ext/runner/mixin.py", "from vllm_ascend_ext.tools import x"),
    (relative_imports, "vllm_ascend_ext/eplb_load/recorder.py", "from ..ops import coverage"),
    (relative_imports, "emulator/vllm_ascend/atb.py", "from emulator import races"),
    (relative_imports, "emulator/vllm_ascend/atb.py", "def f():\n    import emulator.races"),
    (plain_imports, "vllm_ascend_ext/eplb_load/recorder.py", "import sys\nsys.path.insert(0, '.')"),
    (plain_imports, "vllm_ascend_ext/eplb_load/recorder.py", "import importlib\nimportlib.import_module(name)"),
    (
        plain_imports,
        "vllm_ascend_ext/eplb_load/recorder.py",
        "import importlib\nimportlib.import_module('.x', 'eplb_load')",
    ),
    (environment, "vllm_ascend_ext/ops/_library.py", "import os\nos.environ['X'] = '1'"),
    (environment, "vllm_ascend_ext/integration/worker.py", "import os as o\no.getenv('X')"),
    (environment, "vllm_ascend_ext/integration/worker.py", "from os import environ as e"),
    (device_branches, "vllm_ascend_ext/ops/expert_load.py", "if x.device.type == 'npu': pass"),
    (device_branches, "vllm_ascend_ext/runner/mixin.py", "y = 1 if 'cuda' != device_type else 2"),
    (device_branches, "vllm_ascend_ext/runner/mixin.py", "if self.device_type in ('cuda', 'npu'): pass"),
    (device_branches, "vllm_ascend_ext/runner/mixin.py", "if device == torch.device('cpu'): pass"),
    (device_branches, "vllm_ascend_ext/runner/mixin.py", "match kind:\n    case 'npu' | 'cuda':\n        pass"),
    (device_branches, "vllm_ascend_ext/eplb_load/recorder.py", "if x.is_cuda: pass"),
    (file_names, "vllm_ascend_ext/eplb_load/utils.py", ""),
    (file_names, "vllm_ascend_ext/runner/model_runner_v1.py", ""),
    (file_names, "vllm_ascend_ext/v1/worker.py", ""),
    (names, "vllm_ascend_ext/eplb_load/recorder.py", "def maybe_record(): pass"),
    (names, "vllm_ascend_ext/eplb_load/recorder.py", "def f(maybe_x): pass"),
    (names, "vllm_ascend_ext/eplb_load/recorder.py", "record_maybe = 1"),
    (names, "vllm_ascend_ext/integration/worker.py", "def maybe_patch(): pass"),
    (names, "vllm_ascend_ext/integration/worker.py", "class WorkerV1: pass"),
    (sizes, "vllm_ascend_ext/eplb_load/recorder.py", "x = 1\n" * 301),
    (sizes, "vllm_ascend_ext/eplb_load/recorder.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 50),
    (license_line, "vllm_ascend_ext/eplb_load/recorder.py", "import os\n"),
]

ALLOWED: list[tuple[FileCheck, str, str]] = [
    (cpp_function_sizes, "emulator/csrc/a.cpp", "namespace emu {\n" + "int a;\n" * 60 + "}\n"),
    (cpp_function_sizes, "emulator/csrc/a.cpp", "int F() {\n" + "  int a;\n" * 48 + "}\n"),
    (cpp_function_sizes, "csrc_channel/a.cpp", "int F();\nstruct A {\n" + "  int a;\n" * 60 + "};\n"),
    (cpp_function_sizes, "csrc_channel/a.cpp", "const int k[] = {\n" + "  {1, 2},\n" * 60 + "};\n"),
    (cpp_function_sizes, "csrc_channel/a.cpp", "enum class A : int {\n" + "  kA,\n" * 60 + "};\n"),
    (cpp_function_sizes, "csrc_channel/a.cpp", 'extern "C" {\n' + "int F();\n" * 60 + "}\n"),
    (cpp_names, "csrc_channel/a.cpp", "[[maybe_unused]] int a;  // maybe\n"),
    (license_line, "scripts/a.sh", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"),
    (file_names, "vllm_ascend_ext/eplb_load/recorder.py", ""),
    (stands_alone, "emulator/races.py", "import ctypes\nfrom emulator import races"),
    (relative_imports, "emulator/vllm_ascend/atb.py", "from .. import races\nfrom ..launcher import build"),
    (import_owners, "vllm_ascend_ext/integration/worker.py", "import vllm\nfrom vllm_ascend import utils"),
    (import_owners, "vllm_ascend_ext/eplb_load/recorder.py", "import vllm_ascend_ext.ops"),
    (import_owners, "vllm_ascend_ext/device/npu.py", "import importlib\nimportlib.import_module('torch_npu')"),
    (import_owners, "vllm_ascend_ext/ops/triton/expert_load.py", "import triton"),
    (
        arrows,
        "vllm_ascend_ext/eplb_load/recorder.py",
        "from vllm_ascend_ext.ops import coverage\nfrom vllm_ascend_ext.eplb_load import x",
    ),
    (arrows, "vllm_ascend_ext/__init__.py", "from vllm_ascend_ext.cli import main"),
    (arrows, "vllm_ascend_ext/cli.py", "from vllm_ascend_ext import __version__, runner"),
    (plain_imports, "vllm_ascend_ext/eplb_load/__init__.py", "from .recorder import ExpertLoadRecorder"),
    (
        plain_imports,
        "vllm_ascend_ext/integration/upstream/seams/change.py",
        "import importlib\nimportlib.import_module(target)",
    ),
    (environment, "vllm_ascend_ext/envs.py", "import os\nos.environ['X'] = '1'"),
    (environment, "vllm_ascend_ext/cli.py", "from vllm_ascend_ext import envs\nenvs.export({'X': '1'})"),
    (device_branches, "vllm_ascend_ext/device/npu.py", "if x.device.type == 'npu': pass"),
    (device_branches, "vllm_ascend_ext/integration/stacks/vllm.py", "if kind.device == 'npu': pass"),
    (
        device_branches,
        "vllm_ascend_ext/runner/mixin.py",
        "if device.capabilities.graph_capture and kind == 'none': pass",
    ),
    (
        names,
        "vllm_ascend_ext/integration/worker.py",
        "from vllm.v1 import worker\nclass A:\n    def maybe_x(self): pass",
    ),
    (sizes, "vllm_ascend_ext/eplb_load/recorder.py", "def f():\n" + "    x = 1\n" * 49),
]

_HEADER = "emulator/csrc/core/stream.h"
_PLANNER = "vllm_ascend_ext/integration/dp_gather/planner.py"

# rule, small checkouts with the bug, and small checkouts without it
SEEDED_TREES: list[tuple[Callable[[Tree], Iterator[str]], list[dict[str, str]], list[dict[str, str]]]] = [
    (
        cpp_no_cann,
        [
            {"emulator/csrc/a.cpp": '#include "acl/acl_rt.h"\n'},
            {"csrc_ascendc/a.cpp": "# include <hccl/hccl.h>\n"},
            {"csrc_channel/a.h": "#include <acl.h>\n"},
        ],
        [
            {"emulator/csrc/acl/a.cpp": '#include "core/stream.h"\n#include <sys/mman.h>\n', _HEADER: ""},
            {"emulator/csrc/opapi/a.cpp": "#include <ATen/ATen.h>\n#include <vector>\n"},
            {"csrc_ascendc/a/b.cpp": '#include "../launch.h"\n', "csrc_ascendc/launch.h": ""},
        ],
    ),
    (
        integrated_features,
        [
            {_PLANNER: "from vllm_ascend_ext.integration import mtp_output"},
            {_PLANNER: "def f():\n    import vllm_ascend_ext.integration.eplb_load.bind"},
        ],
        [{_PLANNER: "from vllm_ascend_ext.integration.dp_gather import limits"}],
    ),
    (
        circles,
        [
            {"tests/a.py": "import tests.b", "tests/b.py": "def f():\n    from tests import a"},
            {
                "emulator/a/x.py": "from emulator.b import x",
                "emulator/b/x.py": "import emulator.c.x",
                "emulator/c/x.py": "from emulator.a import y",
                "emulator/a/y.py": "",
            },
            {
                "vllm_ascend_ext/tools/a/x.py": "import vllm_ascend_ext.tools.y",
                "vllm_ascend_ext/tools/y.py": "from .a import x",
            },
        ],
        [
            {
                "tests/a.py": "import tests.b\nimport tests.a",
                "tests/b.py": "import emulator.a",
                "emulator/a.py": "",
            },
            {
                "emulator/a/x.py": "import emulator.b.x",
                "emulator/b/x.py": "",
                "emulator/b/y.py": "import emulator.b.x",
            },
        ],
    ),
    (
        folder_sizes,
        [
            {f"tests/test_{number}.py": "" for number in range(15)},
            {f"csrc_channel/{number}.h": "" for number in range(10)}
            | {f"csrc_channel/x{number}.cpp": "" for number in range(5)},
        ],
        [
            {f"tests/test_{number}.py": "" for number in range(14)} | {"tests/__init__.py": ""},
            {f"csrc_channel/{number}{end}": "" for number in range(14) for end in (".h", ".cpp")},
            {f"emulator/tables/{number}.def": "" for number in range(19)},
        ],
    ),
]
