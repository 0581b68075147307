# SPDX-License-Identifier: Apache-2.0
"""Every seam is in the installed packages, and each that is renamed there is reported at start-up by its name."""

from __future__ import annotations

import ast
import functools
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest

from vllm_ascend_ext.integration.errors import IncompatibleVllmError
from vllm_ascend_ext.integration.upstream.seams import rows
from vllm_ascend_ext.integration.upstream.seams.check import check, needed
from vllm_ascend_ext.integration.upstream.seams.outline import Outline
from vllm_ascend_ext.integration.upstream.seams.seam import ALWAYS, DEVICES, Seam
from vllm_ascend_ext.integration.upstream.seams.sources import Sources
from vllm_ascend_ext.integration.upstream.seams.table import SEAMS
from vllm_ascend_ext.integration.upstream.versions import PAIRS, Pair, installed_pair

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = (".venv-npu", ".venv-npu-030")  # of the emulator, one a pair
FEATURES = ("eplb_load", "dp_gather", "attn_scatter", "mtp_output")


def folder_in(environment: str, package: str) -> Path | None:
    """A package's sources in an environment of the emulator, whose Python need not run here."""
    return next(iter((ROOT / environment).glob(f"lib/python*/site-packages/{package}")), None)


@functools.cache
def sources(pair: Pair | None = None) -> Sources:
    """The sources of a pair, by default the installed one: those that are imported here, or an environment's."""
    if pair in (None, installed_pair()):
        folder = None if find_spec("vllm_ascend") is not None else folder_in(ENVIRONMENTS[0], "vllm_ascend")
        return Sources({"vllm_ascend": folder} if folder else None)
    environment = ENVIRONMENTS[PAIRS.index(pair)]
    return Sources({package: folder_in(environment, package) for package in ("vllm", "vllm_ascend")})


@functools.cache
def renamed_outline(pair: Pair, module: str, name: str) -> Outline:
    text = sources(pair).text(module)
    assert text is not None
    return Outline(re.sub(rf"\b{name}\b", f"{name}_renamed", text))


def renamed(pair: Pair, seam: Seam) -> Sources:
    """The same packages, with the seam's own symbol renamed throughout its module."""
    copy = Sources(shared=sources(pair))
    copy.put(seam.module, renamed_outline(pair, seam.module, seam.name))
    return copy


USED = [(pair, seam) for pair in PAIRS for seam in SEAMS if any(seam.is_used(d, pair) for d in pair.devices)]


@pytest.mark.parametrize(
    ("pair", "seam"), USED, ids=[f"{pair.vllm}-{seam.feature}-{seam.target}" for pair, seam in USED]
)
def test_each_seam_is_there_and_reported_when_it_is_renamed(pair: Pair, seam: Seam) -> None:
    if not sources(pair).has_package(seam.package):
        pytest.skip(f"{seam.package} of this pair is not installed, nor is there an environment with it")
    assert sources(pair).problem_with(seam) is None
    for device in filter(lambda device: seam.is_used(device, pair), pair.devices):
        with pytest.raises(IncompatibleVllmError, match=re.escape(f"{seam.target} is gone (")) as caught:
            check(device, [seam.feature], renamed(pair, seam), pair)
        assert re.search(r"\. Install vllm(-ascend)?==0", str(caught.value))


def test_all_that_is_broken_is_named_at_once() -> None:
    text = sources().text("vllm.v1.worker.gpu_model_runner")
    assert text is not None
    for name in ("_sample", "_bookkeeping_sync", "discard_request_mask", "EplbState"):
        text = re.sub(rf"\b{name}\b", f"{name}_renamed", text)
    changed = Sources(texts={"vllm.v1.worker.gpu_model_runner": text}, shared=sources())
    with pytest.raises(IncompatibleVllmError) as caught:
        check("cuda", FEATURES, changed)
    for name in ("_sample", "_bookkeeping_sync", "discard_request_mask"):
        assert f"gpu_model_runner:GPUModelRunner.{name} is gone" in str(caught.value)
    assert "gpu_model_runner:EplbState is gone" in str(caught.value)
    with pytest.raises(IncompatibleVllmError) as caught:
        check("cuda", [], changed)
    assert "EplbState" not in str(caught.value), "a seam of a feature that is off"


def test_a_lost_parameter_is_named() -> None:
    text = sources().text("vllm.v1.worker.gpu_model_runner")
    assert text is not None and text.count("        skip_eplb: bool = False,") == 1
    text = text.replace("        skip_eplb: bool = False,\n", "")
    changed = Sources(texts={"vllm.v1.worker.gpu_model_runner": text}, shared=sources())
    with pytest.raises(IncompatibleVllmError, match=r"GPUModelRunner\._dummy_run has no parameter skip_eplb"):
        check("cpu", [], changed)


def test_the_table_is_complete_and_has_no_row_twice() -> None:
    modules = [import_module(f"{rows.__name__}.{module.name}") for module in iter_modules(rows.__path__)]
    in_rows = {seam for module in modules for seam in module.ROWS}
    named = {value for module in modules for value in vars(module).values() if isinstance(value, Seam)}
    assert in_rows and in_rows == set(SEAMS)
    assert [seam.target for seam in named - in_rows] == []
    places = [
        (seam.target, seam.feature, device, pair)
        for seam in SEAMS
        for device in seam.devices
        for pair in seam.pairs
    ]
    assert sorted(place for place in set(places) if places.count(place) > 1) == []
    assert {seam for _, seam in USED} == set(SEAMS), "a row that is used nowhere"


def private_reads(source: str, ours: frozenset[str]) -> set[str]:
    """Private names that a file reads of objects, or imports, and that no file of ours binds."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            found |= {str(argument.value) for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("vllm", "vllm_ascend"):
            found |= {alias.name for alias in node.names}
    return {name for name in found - ours if name.startswith("_") and not name.startswith("__")}


def bound_names(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def test_every_private_read_has_a_row() -> None:
    package = ROOT / "vllm_ascend_ext"
    texts = [file.read_text(encoding="utf-8") for file in sorted(package.rglob("*.py"))]
    ours = frozenset().union(*map(bound_names, texts))
    assert private_reads("from vllm.a import _b\nc._d\ngetattr(c, '_e')\nc._select", ours) == {
        *("_b", "_d", "_e", "_select")
    }
    found = set()
    for room in ("integration", "tools"):
        for file in sorted((package / room).rglob("*.py")):
            found |= private_reads(file.read_text(encoding="utf-8"), ours)
    # of a multiprocessing.Process, os._exit, and an argparse.ArgumentParser, which lists its options nowhere else
    of_python = {"_kwargs", "_exit", "_option_string_actions"}
    of_ray = {"_actor_id", "_private"}  # by which alone Ray tells an actor's process
    assert found - {name for seam in SEAMS for name in seam.path} == of_python | of_ray


ON_THE_NPU = [  # file and class of ours, and the classes upstream whose methods it comes before
    ("integration/worker.py", "ExtWorker", ["vllm_ascend.worker.worker:NPUWorker"]),
    (
        "runner/mixin.py",
        "ExtModelRunner",
        ["vllm_ascend.worker.model_runner_v1:NPUModelRunner", "vllm.v1.worker.gpu_model_runner:GPUModelRunner"],
    ),
    (
        "integration/eplb_load/ascend_eplb.py",
        "EplbUpdatorWithOurLoads",
        ["vllm_ascend.eplb.eplb_updator:EplbUpdator"],
    ),
]


@pytest.mark.parametrize(("file", "name", "upstream"), ON_THE_NPU)
def test_every_override_on_the_npu_has_a_row(file: str, name: str, upstream: list[str]) -> None:
    """`test_engine.py` looks at the classes of the CPU and of CUDA; those of the NPU need not import here."""
    if not sources().has_package("vllm_ascend"):
        pytest.skip("vllm_ascend is not installed, nor is there an environment of the emulator")
    tree = ast.parse((ROOT / "vllm_ascend_ext" / file).read_text(encoding="utf-8"))
    (ours,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    methods = [node.name for node in ours.body if isinstance(node, ast.FunctionDef)]
    overridden = []
    for method in methods:
        if method.startswith("__") and method != "__init__":
            continue
        for target in upstream:
            outline = sources().outline(target.partition(":")[0])
            assert outline is not None and outline.find(target.partition(":")[2]) is not None, target
            if outline.find(target.partition(":")[2], method) is not None:
                overridden.append(f"{target}.{method}")
                break
    rows = {seam.target for seam in SEAMS if "npu" in seam.devices and seam.kind == "override"}
    assert len(overridden) > 2 and sorted(set(overridden) - rows) == []


def test_every_row_says_why_where_and_until_when() -> None:
    for seam in SEAMS:
        assert seam.why and seam.remove_when and seam.devices, seam.target
        assert set(seam.devices) <= set(DEVICES) and seam.feature in (*FEATURES, *ALWAYS), seam.target
        assert seam.link.startswith("https://github.com/vllm-project/vllm"), seam.target


def test_without_vllm_ascend_its_rows_are_not_missed() -> None:
    absent = Sources({"vllm_ascend": None})
    assert any(seam.package == "vllm_ascend" for seam in needed("npu", FEATURES, PAIRS[0]))
    check("npu", FEATURES, absent)
