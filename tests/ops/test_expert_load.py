# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_ascend_ext.ops import MissingKernelError, coverage, expert_load_add_, expert_load_adder, require_kernels
from vllm_ascend_ext.ops.expert_load import _reference

INTEGERS = [torch.int32, torch.int64]
OP = torch.ops.ascend_ext.expert_load_add_.default


def _slow(load, topk_ids, num_tokens):
    for row in topk_ids.tolist()[: max(num_tokens, 0)]:
        for expert in row:
            if 0 <= expert < load.numel():
                load[expert] += 1


def _scalar(num_tokens):
    return torch.tensor(num_tokens, dtype=torch.int32)


@st.composite
def _cases(draw):
    num_experts, num_rows, top_k = draw(st.integers(1, 9)), draw(st.integers(0, 12)), draw(st.integers(1, 4))
    ids = draw(st.lists(st.integers(-2, num_experts + 1), min_size=num_rows * top_k, max_size=num_rows * top_k))
    return (
        torch.tensor(
            draw(st.lists(st.integers(0, 99), min_size=num_experts, max_size=num_experts)),
            dtype=draw(st.sampled_from(INTEGERS)),
        ),
        torch.tensor(ids, dtype=draw(st.sampled_from(INTEGERS))).reshape(num_rows, top_k),
        draw(st.integers(-1, num_rows + 2)),
    )


@pytest.mark.parametrize("add", [expert_load_add_, _reference], ids=["kernel", "reference"])
@given(case=_cases(), one_element=st.booleans())
def test_equals_the_slow_loop(add, case, one_element):
    load, topk_ids, num_tokens = case
    expected, ids_before = load.clone(), topk_ids.clone()
    _slow(expected, topk_ids, num_tokens)
    add(load, topk_ids, _scalar(num_tokens).reshape((1,) if one_element else ()))
    assert load.dtype == expected.dtype and torch.equal(load, expected)
    assert torch.equal(topk_ids, ids_before)


@pytest.mark.parametrize("num_rows", [1, 31, 32, 33, 34, 500])
def test_few_and_many_ids_are_counted_alike(num_rows):
    """Few ids are counted without numpy; a quarter of these is foreign, and two rows do not count."""
    ids = torch.randint(-2, 8, (num_rows, 4), generator=torch.Generator().manual_seed(num_rows))
    for add in (expert_load_add_, expert_load_adder("cpu")):
        for dtype in INTEGERS:
            load, slow = torch.full((6,), 3, dtype=dtype), torch.full((6,), 3, dtype=dtype)
            add(load, ids.to(dtype), _scalar(num_rows - 2))
            _slow(slow, ids, num_rows - 2)
            assert torch.equal(load, slow)


def test_only_a_host_goes_without_the_dispatcher():
    assert expert_load_adder("cpu") is not OP
    assert expert_load_adder("npu") is OP and expert_load_adder("cuda") is OP


def test_padding_rows_and_invalid_ids_do_not_count():
    load = torch.zeros(4, dtype=torch.int32)
    expert_load_add_(load, torch.tensor([[0, -1], [3, 4], [1, 1]]), _scalar(2))
    assert load.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_largest_and_the_smallest_ids_do_not_count(dtype):
    load, limits = torch.zeros(4, dtype=torch.int64), torch.iinfo(dtype)
    expert_load_add_(load, torch.tensor([[limits.min, 3], [limits.max, 0], [-1, 4]], dtype=dtype), _scalar(3))
    assert load.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("num_experts", [0, 3])
def test_no_rows_or_no_experts(num_experts):
    load = torch.ones(num_experts, dtype=torch.int32)
    expert_load_add_(load, torch.zeros(0, 2, dtype=torch.int64), _scalar(0))
    expert_load_add_(load[:0], torch.zeros(2, 2, dtype=torch.int64), _scalar(2))
    assert load.tolist() == [1] * num_experts


def test_strided_arguments():
    counts = torch.zeros(4, 3, dtype=torch.int32)
    wide = torch.tensor([[0, 9, 2], [2, 9, 3]], dtype=torch.int32)
    expert_load_add_(counts[:, 1], wide[:, ::2], _scalar(2))
    assert counts[:, 1].tolist() == [1, 0, 2, 1] and counts.sum() == 4


@pytest.mark.parametrize("load_dtype", INTEGERS)
@pytest.mark.parametrize("ids_dtype", INTEGERS)
@pytest.mark.parametrize("num_rows", [0, 5])
def test_opcheck(load_dtype, ids_dtype, num_rows):
    ids = torch.arange(num_rows * 2).reshape(num_rows, 2).to(ids_dtype) % 4
    torch.library.opcheck(OP, (torch.zeros(4, dtype=load_dtype), ids, _scalar(num_rows)))


def test_compiles_without_a_graph_break_and_follows_the_scalar():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(load, topk_ids, num_tokens):
        expert_load_add_(load, topk_ids, num_tokens)

    load, num_tokens = torch.zeros(2, dtype=torch.int32), _scalar(1)
    step(load, torch.tensor([[0], [1]]), num_tokens)
    num_tokens.fill_(2)
    step(load, torch.tensor([[0], [1]]), num_tokens)
    assert load.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("load", "ids", "num_tokens", "error"),
    [
        (torch.zeros(2, 2, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32), _scalar(1), ValueError),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), _scalar(1), ValueError),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(1, 1).int(), _scalar(1).expand(2), ValueError),
        (torch.zeros(2), torch.zeros(1, 1, dtype=torch.int32), _scalar(1), TypeError),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(1, 1), _scalar(1), TypeError),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(1, 1).int(), torch.tensor(1), TypeError),
    ],
)
def test_wrong_arguments(load, ids, num_tokens, error):
    with pytest.raises(error, match="expert_load_add_ takes"):
        expert_load_add_(load, ids, num_tokens)


def _npu_kind():
    return {row.op: row.kind for row in coverage(["npu"])}["expert_load_add_"]


without_npu_kernels = pytest.mark.skipif(_npu_kind() != "reference", reason="NPU kernels are loaded")


@without_npu_kernels
def test_coverage_tells_reference_from_kernel():
    library = torch.library.Library("ascend_ext", "IMPL")
    library.impl("expert_load_add_", lambda load, ids, num_tokens: None, "PrivateUse1")
    try:
        assert _npu_kind() == "ascendc"
    finally:
        library._destroy()
    assert _npu_kind() == "reference"


def test_coverage_of_an_unknown_device():
    with pytest.raises(ValueError, match="unknown device type 'tpu'"):
        coverage(["tpu"])


@without_npu_kernels
def test_strict_mode_refuses_a_reference(monkeypatch):
    monkeypatch.delenv("VLLM_ASCEND_EXT_STRICT_OPS", raising=False)
    require_kernels("npu")
    monkeypatch.setenv("VLLM_ASCEND_EXT_STRICT_OPS", "1")
    with pytest.raises(MissingKernelError, match="on npu .*expert_load_add_.*not built: install with"):
        require_kernels("npu")


def test_strict_mode_misses_no_kernel_on_the_cpu(monkeypatch):
    monkeypatch.setenv("VLLM_ASCEND_EXT_STRICT_OPS", "1")
    require_kernels("cpu")


def test_coverage_gives_a_reason_for_every_reference():
    for row in coverage(["cpu", "cuda", "npu"]):
        assert (row.reason is None) == (row.kind != "reference")
