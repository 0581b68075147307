# SPDX-License-Identifier: Apache-2.0
"""Lists the suites of other projects that are run: which files of a checkout, and what they need. None of them is
kept here. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Suite:
    """Describes the tests of another project.

    name: what the command line calls it. title: what it tests. source: the repository they were taken from and
    the version. patterns: globs below the checkout. leaves_out: globs of those that are not run. packages: what
    its tests import beyond an environment with torch, torch_npu and pytest. preloads: modules that are imported
    once for all files. deadline_s: for one test, from when it starts. of_tables: only the files that test
    operators of the emulator's tables are run (`covered`). memory_mib: of each NPU, unless
    EMULATOR_MEMORY_MIB says it.
    """

    name: str
    title: str
    source: str
    patterns: tuple[str, ...]
    leaves_out: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    preloads: tuple[str, ...] = ("pytest", "torch", "torch_npu")
    deadline_s: float = 300.0
    of_tables: bool = False
    memory_mib: int = 4096

    def files(self, folder: Path) -> list[str]:
        """Returns the files of this suite in the checkout ``folder``, as paths below it."""
        found = {path for pattern in self.patterns for path in folder.glob(pattern) if path.is_file()}
        found -= {path for pattern in self.leaves_out for path in folder.glob(pattern)}
        return sorted(path.relative_to(folder).as_posix() for path in found)


_VLLM_ASCEND = "vllm-project/vllm-ascend, releases/v0.23.0"
_TORCH_NPU = "Ascend/pytorch, v26.2.0-beta.1-pytorch2.13.0"
_OP_PLUGIN = "Ascend/op-plugin, the commit that Ascend/pytorch v26.2.0-beta.1-pytorch2.13.0 names"
_TESTING = ("expecttest", "parameterized")
_PRELOADED = ("pytest", "torch_npu.testing.testcase", "torch_npu.testing.common_utils")

SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "vllm_ascend_units",
            "vllm-ascend's unit tests for an A2, with the real torch_npu in place of their mocks",
            _VLLM_ASCEND,
            ("tests/ut/**/a2/test_*.py",),
            memory_mib=16384,
        ),
        Suite(
            "vllm_ascend_operators",
            "vllm-ascend's tests of operators on one NPU",
            _VLLM_ASCEND,
            ("tests/e2e/nightly/single_node/ops/singlecard_ops/**/test_*.py",),
        ),
        Suite(
            "torch_npu_streams",
            "torch_npu's tests of streams, events, memory and graphs",
            _TORCH_NPU,
            (
                "test/npu/test_stream*.py",
                "test/npu/test_multi_stream*.py",
                "test/npu/test_multi_devices*.py",
                "test/npu/test_ipc_event.py",
                "test/npu/test_*alloc*.py",
                "test/npu/test_*mem*.py",
                "test/npu/test_*segment*.py",
                "test/npu/test_pin_memory*.py",
                "test/npu/test_roundup*.py",
                "test/npu/test_sanitizer*.py",
                "test/npu/test_aclgraph*.py",
                "test/npu/test_graph_tree.py",
                "test/npu/test_npugraph*.py",
                "test/npu/test_copy.py",
                "test/npu/test_generators.py",
                "test/npu/test_torch_npu.py",
                "test/npu/test_npu.py",
                "test/npu/test_storage.py",
                "test/npu/test_dlpack.py",
                "test/npu/test_device.py",
                "test/npu/test_tensors.py",
                "test/allocator/test_*.py",
                "test/test_npu_allocator.py",
                "test/test_npu_sanitizer.py",
                "test/test_npu_pinned_memory_background_threads.py",
                "test/test_npu_multinpu.py",
            ),
            packages=_TESTING,
            preloads=_PRELOADED,
        ),
        Suite(
            "torch_npu_distributed",
            "torch_npu's tests of collectives and process groups",
            _TORCH_NPU,
            ("test/distributed/test_*.py",),
            packages=_TESTING,
            preloads=_PRELOADED,
        ),
        Suite(
            "op_plugin",
            "op-plugin's tests of operators, base and custom",
            _OP_PLUGIN,
            ("test/test_base_ops/test_*.py", "test/test_custom_ops/test_*.py"),
            packages=_TESTING,
            preloads=_PRELOADED,
            deadline_s=120.0,
            of_tables=True,
        ),
    )
}
