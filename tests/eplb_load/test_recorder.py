# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vllm_ascend_ext.eplb_load.recorder import ExpertLoadRecorder, LoadOverflowError

CPU = torch.device("cpu")


def test_counts_all_routed_tokens_and_no_padding():
    recorder = ExpertLoadRecorder(2, 4, CPU)
    for _ in range(3):
        recorder.begin_step(2)
        for layer in range(2):
            recorder.record(layer, torch.tensor([[0, 1], [1, 3], [2, 2], [0, 0]]))
    load = recorder.read()
    assert load.load_LE.tolist() == [[3, 6, 0, 3], [3, 6, 0, 3]]
    assert load.load_LE.dtype == torch.int64
    assert (load.num_tokens, load.num_steps) == (6, 3)


def test_dummy_step_counts_nothing():
    recorder = ExpertLoadRecorder(1, 4, CPU)
    recorder.begin_step(5)
    recorder.record(0, torch.zeros(5, 2, dtype=torch.int32))
    recorder.begin_step(0)
    recorder.record(0, torch.zeros(5, 2, dtype=torch.int32))
    assert recorder.read().load_LE.tolist() == [[10, 0, 0, 0]]


def test_split_step_with_its_own_counts():
    recorder = ExpertLoadRecorder(1, 2, CPU)
    recorder.begin_step(3)
    recorder.record(0, torch.tensor([[0], [0]]), torch.tensor(1, dtype=torch.int32))
    recorder.record(0, torch.tensor([[1], [1], [0]]), torch.tensor([2], dtype=torch.int32))
    assert recorder.read().load_LE.tolist() == [[1, 2]]


def test_buffers_keep_their_storage():
    recorder = ExpertLoadRecorder(2, 3, CPU)
    before = recorder.load_LE.data_ptr(), recorder.num_tokens.data_ptr()
    recorder.begin_step(1)
    recorder.record(1, torch.tensor([[2]]))
    recorder.read()
    recorder.reset()
    assert (recorder.load_LE.data_ptr(), recorder.num_tokens.data_ptr()) == before


def test_read_is_a_copy_and_reset_forgets():
    recorder = ExpertLoadRecorder(1, 2, CPU)
    recorder.begin_step(1)
    recorder.record(0, torch.tensor([[0]]))
    load = recorder.read()
    recorder.reset()
    assert load.load_LE.tolist() == [[1, 0]]
    empty = recorder.read()
    assert empty.load_LE.tolist() == [[0, 0]] and (empty.num_tokens, empty.num_steps) == (0, 0)
    recorder.record(0, torch.tensor([[0]]))  # no step was begun
    assert recorder.read().load_LE.tolist() == [[0, 0]]


@pytest.mark.parametrize("layer", [-1, 2, 100])
def test_layer_out_of_range_is_named(layer):
    recorder = ExpertLoadRecorder(2, 3, CPU)
    with pytest.raises(IndexError, match=f"layer {layer} is not one of the 2"):
        recorder.record(layer, torch.tensor([[0]]))


@pytest.mark.parametrize(("num_layers", "num_experts"), [(0, 3), (3, 0)])
def test_sizes_are_positive(num_layers, num_experts):
    with pytest.raises(ValueError, match="at least 1"):
        ExpertLoadRecorder(num_layers, num_experts, CPU)


def test_negative_tokens():
    with pytest.raises(ValueError, match="-1 is negative"):
        ExpertLoadRecorder(1, 1, CPU).begin_step(-1)


def test_step_that_could_overflow_is_refused_before_it_counts():
    recorder = ExpertLoadRecorder(1, 8, CPU)
    recorder.begin_step(2**28)
    recorder.record(0, torch.zeros(1, 4, dtype=torch.int64))
    recorder.begin_step(2**28 - 1)  # (2**29 - 1) * 4 still fits
    with pytest.raises(LoadOverflowError, match=r"536870912 tokens with top-4 .* take_into\(\)"):
        recorder.begin_step(1)
    load = recorder.read()
    assert (load.num_tokens, load.num_steps) == (2**29 - 1, 2)
    assert int(recorder.num_tokens) == 2**28 - 1
    recorder.reset()
    recorder.begin_step(1)


def test_wider_routing_that_could_overflow_is_refused_before_it_counts():
    recorder = ExpertLoadRecorder(1, 8, CPU)
    recorder.begin_step(2**30)
    with pytest.raises(LoadOverflowError):
        recorder.record(0, torch.zeros(1, 2, dtype=torch.int64))
    assert recorder.read().load_LE.sum() == 0
    recorder.record(0, torch.zeros(1, 1, dtype=torch.int64))
    assert recorder.read().load_LE.sum() == 1
