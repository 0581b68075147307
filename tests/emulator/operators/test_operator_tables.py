# SPDX-License-Identifier: Apache-2.0
"""The operator tables, and libopapi's C interface below torch_npu: handles, captured arguments, touched memory."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
OPAPI = ROOT / "emulator" / "csrc" / "opapi"
TABLES = sorted((OPAPI / "tables").glob("*.def"))

ACL_FLOAT, ACL_INT64, ACL_INT4, ACL_FORMAT_ND = 0, 9, 29, 2


def _load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("opapi_generate", OPAPI / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


# Tables (no emulator needed)


def test_no_operator_is_in_two_tables() -> None:
    names = [entry.name for table in TABLES for entry in generate.parse(table)]
    assert len(names) > 500
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_operator_says_what_it_writes(table: Path) -> None:
    silent = [entry.name for entry in generate.parse(table) if not generate.writes(entry)]
    assert silent in ([], ["aclnnSleep"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_in_place_operators_update_their_first_operand(table: Path) -> None:
    for entry in generate.parse(table):
        if entry.name.startswith("aclnnInplace"):
            assert entry.parameters[0].kind in ("InOut", "Out"), entry.name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aclnnX(In a, Out b) { put(b, a);", "x.def:1: the body does not end"),
        ("aclnnX(Inn a) {}", "x.def:1: not an argument: 'Inn a'"),
        ("// comment\naclnnX() {}\nwhat", "x.def:3: not an operator: 'what'"),
        ("aclnnX() {}\naclnnX() {}", "x.def: twice: aclnnX"),
        ("aclnnX(Out a) requires { check(a); } put(a);", "x.def:1: no body behind what it requires"),
        (
            "aclnnX(Out a) requires { check(a); } chooses { by.rows(a); }",
            "x.def:1: no body behind what it chooses",
        ),
    ],
)
def test_mistakes_in_a_table_are_located(tmp_path: Path, text: str, problem: str) -> None:
    table = tmp_path / "x.def"
    table.write_text(text)
    with pytest.raises(ValueError, match=problem):
        generate.parse(table)


# The library


@pytest.fixture
def library() -> ctypes.CDLL:
    """libopapi as torch_npu loads it."""
    import torch_npu  # noqa: F401

    torch.npu.synchronize()
    opapi = ctypes.CDLL("libopapi.so")
    for kind in ("Tensor", "Scalar", "IntArray", "TensorList"):
        getattr(opapi, f"aclCreate{kind}").restype = ctypes.c_void_p
    return opapi


@pytest.fixture
def handles(library: ctypes.CDLL) -> Iterator[dict[str, ctypes.c_void_p]]:
    """A tensor, a scalar and an int array."""
    memory = torch.zeros(4, device="npu")
    value, numbers = ctypes.c_double(2), (ctypes.c_int64 * 2)(1, 2)
    made = {
        "tensor": tensor_handle(library, memory),
        "scalar": ctypes.c_void_p(library.aclCreateScalar(ctypes.byref(value), 11)),
        "ints": ctypes.c_void_p(library.aclCreateIntArray(numbers, ctypes.c_uint64(2))),
    }
    yield made
    assert library.aclDestroyTensor(made["tensor"]) == 0
    assert library.aclDestroyScalar(made["scalar"]) == 0
    assert library.aclDestroyIntArray(made["ints"]) == 0


def tensor_handle(library: ctypes.CDLL, tensor: torch.Tensor, data_type: int = ACL_FLOAT) -> ctypes.c_void_p:
    dims = (ctypes.c_int64 * tensor.dim())(*tensor.shape)
    strides = (ctypes.c_int64 * tensor.dim())(*tensor.stride())
    storage = (ctypes.c_int64 * 1)(tensor.untyped_storage().nbytes() // tensor.element_size())
    count, offset = ctypes.c_uint64(tensor.dim()), ctypes.c_int64(tensor.storage_offset())
    base = ctypes.c_void_p(tensor.untyped_storage().data_ptr())
    return ctypes.c_void_p(
        library.aclCreateTensor(
            dims, count, data_type, strides, offset, ACL_FORMAT_ND, storage, ctypes.c_uint64(1), base
        )
    )


def prepare(library: ctypes.CDLL, name: str, *arguments: object) -> tuple[int, str]:
    """Phase 1: its status and the message that comes with it."""
    runtime = ctypes.CDLL("libascendcl.so")
    runtime.aclGetRecentErrMsg.restype = ctypes.c_char_p
    runtime.aclGetRecentErrMsg()
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    function = getattr(library, f"{name}GetWorkspaceSize")
    status = function(*arguments, ctypes.byref(size), ctypes.byref(executor))
    return status, (runtime.aclGetRecentErrMsg() or b"").decode()


@pytest.mark.emulator
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_library_exports_the_table(library: ctypes.CDLL, table: Path) -> None:
    for entry in generate.parse(table):
        assert hasattr(library, entry.name), entry.name
        assert hasattr(library, f"{entry.name}GetWorkspaceSize"), entry.name
        assert hasattr(library, f"{entry.name}GetMaxWorkspaceSize") == entry.updatable, entry.name


@pytest.mark.emulator
def test_wrong_kinds_are_reported(library: ctypes.CDLL, handles: dict[str, ctypes.c_void_p]) -> None:
    tensor, scalar, ints = handles["tensor"], handles["scalar"], handles["ints"]
    cases = {
        "argument 'alpha' is a tensor, not a scalar": ("aclnnAdd", tensor, tensor, tensor, tensor),
        "argument 'other' is an int array, not a tensor": ("aclnnAdd", tensor, ints, scalar, tensor),
        "argument 'other' is null, not a tensor": ("aclnnAdd", tensor, None, scalar, tensor),
        "argument 'self' is no live handle, not a tensor": ("aclnnAbs", ctypes.c_void_p(64), tensor),
        "argument 'dim' is a scalar, not a number": ("aclnnArgMax", tensor, scalar, ctypes.c_bool(False), tensor),
    }
    for expected, (name, *arguments) in cases.items():
        status, message = prepare(library, name, *arguments)
        assert status != 0
        assert f"{name}: {expected}" in message


@pytest.mark.emulator
def test_destroyed_handle_is_reported(library: ctypes.CDLL, handles: dict[str, ctypes.c_void_p]) -> None:
    gone = tensor_handle(library, torch.zeros(4, device="npu"))
    assert library.aclDestroyTensor(gone) == 0
    _, message = prepare(library, "aclnnInplaceZero", gone)
    assert "aclnnInplaceZero: argument 'self' is no live handle" in message
    assert library.aclDestroyTensor(handles["scalar"]) != 0


@pytest.mark.emulator
def test_unknown_data_type_is_reported(library: ctypes.CDLL) -> None:
    packed = tensor_handle(library, torch.zeros(4, device="npu"), ACL_INT4)
    status, message = prepare(library, "aclnnInplaceZero", packed)
    assert status != 0
    assert "aclnnInplaceZero: argument 'self' cannot be used: ACL data type 29 is not emulated" in message
    assert library.aclDestroyTensor(packed) == 0


@pytest.mark.emulator
def test_operand_outside_device_memory_is_refused(library: ctypes.CDLL) -> None:
    outside = torch.zeros(4)
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    handle = tensor_handle(library, outside)
    assert library.aclnnInplaceOneGetWorkspaceSize(handle, ctypes.byref(size), ctypes.byref(executor)) == 0
    stream = ctypes.c_void_p(torch.npu.current_stream().npu_stream)
    assert library.aclnnInplaceOne(None, ctypes.c_uint64(0), executor, stream) != 0
    assert library.aclDestroyTensor(handle) == 0
    assert outside.sum() == 0


# What an operator touches, as the race checker sees it


def _on_two_streams(first: torch.Tensor, second: torch.Tensor) -> None:
    """Writes one tensor on the current stream, the other on a side stream, with no order between them."""
    side = torch.npu.Stream()
    torch.npu.synchronize()
    first.add_(1)
    with torch.npu.stream(side):
        second.add_(1)
    torch.npu.synchronize()


@pytest.mark.emulator
def test_views_of_other_elements_do_not_race() -> None:
    table = torch.zeros(8, 6, device="npu")
    _on_two_streams(table[:, :3], table[:, 3:])  # interleaved rows
    _on_two_streams(table[::2], table[1::2])
    _on_two_streams(table.t()[0], table.t()[5])
    _on_two_streams(table[2:4], table[4:])


@pytest.mark.emulator
def test_views_of_one_element_in_common_race() -> None:
    from emulator import races

    table = torch.zeros(8, 6, device="npu")
    for first, second in ((table[:, :4], table[:, 3:]), (table[2], table[:, 5]), (table[0], table.t()[0, :1])):
        with races.expect("aclnnInplaceAdd"):
            _on_two_streams(first, second)


@pytest.mark.emulator
def test_readers_do_not_race() -> None:
    table, side = torch.zeros(8, 6, device="npu"), torch.npu.Stream()
    torch.npu.synchronize()
    sums = [table[:, 1:].expand(2, 8, 5).sum()]
    with torch.npu.stream(side):
        sums.append(table.t().sum())
    torch.npu.synchronize()
    assert [part.item() for part in sums] == [0, 0]
