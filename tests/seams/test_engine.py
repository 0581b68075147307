# SPDX-License-Identifier: Apache-2.0
"""Seams and a real vLLM: its objects are what the reader of sources says, every override of ours has a row, and an
engine on a vLLM with one renamed method does not start."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import vllm_ascend_ext
from vllm_ascend_ext.integration.upstream.seams.seam import Seam
from vllm_ascend_ext.integration.upstream.seams.sources import Sources
from vllm_ascend_ext.integration.upstream.seams.table import SEAMS
from vllm_ascend_ext.integration.upstream.versions import installed_pair

pytestmark = pytest.mark.engine

CPU_SEAMS = [seam for seam in SEAMS if seam.is_used("cpu", installed_pair())]
OF_RAY = "vllm.v1.executor.ray_executor_v2"  # which cannot be imported without Ray
START = """
import json, sys
import vllm
print(vllm.__file__, flush=True)
vllm.LLM(**json.loads(sys.argv[1]))
"""


def live(seam: Seam) -> Any:
    """The object itself, as its class or module holds it."""
    owner: Any = import_module(seam.module)
    for parent in seam.path[:-1]:
        owner = getattr(owner, parent)
    return inspect.getattr_static(owner, seam.name)


def test_what_the_reader_says_is_so(vllm_preloaded: None) -> None:
    sources = Sources()
    checked = 0
    for seam in CPU_SEAMS:
        outline = sources.outline(seam.module)
        found = None if outline is None else outline.find(*seam.path)
        assert outline is not None and found is not None, seam.target
        if found.kind == "instance" or (found.kind == "value" and len(seam.path) > 1):
            continue  # has no value before there is an object, or only an annotation
        if seam.module == OF_RAY and find_spec("ray") is None:
            continue
        thing = live(seam)
        if isinstance(thing, classmethod | staticmethod):
            thing = thing.__func__
        if found.kind == "class":
            assert inspect.isclass(thing), seam.target
        if found.kind == "function" and inspect.isfunction(thing):
            assert outline.parameters(*seam.path) == named_parameters(thing), seam.target
            checked += 1
    assert checked > 60


def named_parameters(function: Any) -> tuple[str, ...]:
    packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind not in packed)


def our_classes() -> list[type]:
    """All classes of the package that derive from one of vLLM's, for the CPU and for CUDA."""
    package = Path(vllm_ascend_ext.__file__).parent
    found: dict[str, type] = {}
    for file in sorted((package / "integration").rglob("*.py")):
        if "ascend" in file.name or file.name == "npu.py":
            continue  # needs vllm-ascend
        parts = file.relative_to(package.parent).with_suffix("").parts
        module = import_module(".".join(part for part in parts if part != "__init__"))
        for value in vars(module).values():
            is_ours = inspect.isclass(value) and value.__module__ == module.__name__
            if is_ours and any(base.__module__.startswith("vllm.") for base in value.__mro__):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return list(found.values())


def overrides(cls: type) -> set[tuple[str, str, str]]:
    """(our class, class of vLLM, name) of each thing that a class or a mixin of ours redefines."""
    found = set()
    for position, ours in enumerate(cls.__mro__):
        if not ours.__module__.startswith("vllm_ascend_ext."):
            continue
        for name, value in vars(ours).items():
            if name.startswith("__") and name != "__init__":
                continue
            if not (callable(value) or isinstance(value, classmethod | staticmethod | property)):
                continue
            for base in cls.__mro__[position + 1 :]:
                if base.__module__.startswith("vllm.") and name in vars(base):
                    found.add((ours.__name__, base.__name__, name))
                    break
    return found


def test_every_override_of_ours_has_a_row(vllm_preloaded: None) -> None:
    classes = our_classes()
    assert len(classes) > 10
    listed = {seam.path for seam in SEAMS if seam.kind == "override"}
    found = set().union(*map(overrides, classes))
    assert len(found) > 40
    assert sorted(row for row in found if row[1:] not in listed) == []


def linked_vllm(folder: Path, module: str, old: str, new: str) -> None:
    """Makes a copy of the installed vLLM in which one name is another: links, and one file."""
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    source, target = Path(spec.submodule_search_locations[0]), folder / "vllm"
    parts = module.split(".")[1:]
    for depth in range(len(parts)):
        here, there = source.joinpath(*parts[:depth]), target.joinpath(*parts[:depth])
        there.mkdir()
        for entry in here.iterdir():
            if entry.name not in (parts[depth], f"{parts[depth]}.py", "__pycache__"):
                (there / entry.name).symlink_to(entry)
    file = source.joinpath(*parts).with_suffix(".py")
    text, count = re.subn(rf"\b{old}\b", new, file.read_text(encoding="utf-8"))
    assert count >= 2  # the definition and a call
    target.joinpath(*parts).with_suffix(".py").write_text(text, encoding="utf-8")


def test_an_engine_on_a_vllm_with_a_renamed_method_is_refused_before_weights_load(
    tiny_model: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("*.safetensors"))
    linked_vllm(tmp_path, "vllm.v1.worker.gpu_model_runner", "_bookkeeping_sync", "_bookkeeping")
    arguments = {
        "model": str(model),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 64,
        "kv_cache_memory_bytes": 16 << 20,
        "additional_config": {"ascend_ext": {"eplb_load": {"enabled": True}}},
    }
    root = Path(vllm_ascend_ext.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n{START}",
         json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert result.stdout.splitlines()[0].startswith(str(tmp_path)), "another vLLM was imported"
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("vllm-ascend-ext: error: this vLLM differs from the tested one")
    assert "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync is gone (" in last
    assert last.endswith(". Install vllm==0.23.0") and last.count("is gone") == 1
    assert "safetensors" not in result.stderr
