# SPDX-License-Identifier: Apache-2.0
"""The fast path in C++: which frames take it, which do not, and that none is lost between it and Python."""

import gc
import threading
import time
import weakref
from typing import NamedTuple

import numpy as np
import pytest

from tests.mtp_output.ring.rings import SIZE, backend, new_instance, open_pair, random_section, same
from vllm_ascend_ext.mtp_output import receiver as receiver_module
from vllm_ascend_ext.mtp_output.errors import FrameError, NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.frames.roster import PythonIds
from vllm_ascend_ext.mtp_output.frames.section import Section
from vllm_ascend_ext.mtp_output.ring.end_state import State
from vllm_ascend_ext.mtp_output.ring.file import Word
from vllm_ascend_ext.mtp_output.ring.folder import open_ring
from vllm_ascend_ext.mtp_output.ring.reader import RingReader
from vllm_ascend_ext.mtp_output.sender import OutputSender

RNG = np.random.default_rng(0)
SECTION = random_section(RNG, Source.TARGET, 4)
DRAFT = random_section(RNG, Source.DRAFT, 4, slots=3)
NATIVE = backend("native")


class LikeASection(NamedTuple):
    """Its fields, but not its class."""

    source: Source
    request_ids: tuple[str, ...]
    packed_BW: np.ndarray
    num_slots: int
    top_k: int


def damaged(word: int, value: int) -> Section:
    packed_BW = SECTION.packed_BW.copy()
    packed_BW[1, word] = value
    return SECTION._replace(packed_BW=packed_BW)


NO_FAST_PATH = {
    "other ids": (1, SECTION._replace(request_ids=("a", "b", "c", "d")), None),
    "fewer ids": (1, random_section(RNG, Source.TARGET, 3), None),
    "other slots": (1, random_section(RNG, Source.TARGET, 4, slots=5), None),
    "top-k": (1, random_section(RNG, Source.TARGET, 4, top_k=2), None),
    "another source": (1, SECTION._replace(source=Source.DRAFT), None),
    "a draft": (1, SECTION, DRAFT),
    "records of another type": (1, SECTION._replace(packed_BW=SECTION.packed_BW.astype(np.float32)), None),
    "records of another shape": (1, SECTION._replace(packed_BW=SECTION.packed_BW.ravel()), None),
    "scattered records": (1, SECTION._replace(packed_BW=np.repeat(SECTION.packed_BW, 2, 1)[:, ::2]), None),
    "too large a count": (1, damaged(0, 5), None),
    "an impossible status": (1, damaged(1, 256), None),
    "no section": (1, None, None),
    "another class": (1, LikeASection(*SECTION), None),
    "a negative step": (-1, SECTION, None),
    "too large a step": (2**64, SECTION, None),
    "no step": ("1", SECTION, None),
}


@pytest.mark.parametrize("case", NO_FAST_PATH)
def test_what_has_no_fast_path_is_left_to_python_and_not_sent(case):
    with open_pair(NATIVE) as (sender, receiver, _):
        assert sender._send_fast(0, SECTION, None) == -1  # nothing is cached yet
        sender.send(0, SECTION)
        assert sender._send_fast(*NO_FAST_PATH[case]) == -1
        assert sender.next_sequence == 1 and sender.stats.frames == 1
        equal = SECTION._replace(request_ids=tuple("".join(list(name)) for name in SECTION.request_ids))
        assert sender._send_fast(1, equal, None) == 1
        assert sender._send_fast(2, SECTION, None) == 2
        assert sender.stats.frames == 3 and sender.stats.bytes == sum(
            sender._ring._words[sender._ring._file.descriptor(n) + 1] for n in range(3)
        )
        assert receiver._receive_fast(0) is None  # has a roster
        frames = [receiver.receive(1)] + [receiver._receive_fast(0) for _ in range(2)]
        assert [frame.step for frame in frames] == [0, 1, 2]
        assert all(same(frame.sections, [SECTION]) for frame in frames)


def test_target_and_draft_take_the_fast_path_together():
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION, DRAFT)
        receiver.receive(1)
        assert sender._send_fast(1, SECTION, None) == -1
        assert sender._send_fast(1, SECTION, DRAFT) == 1
        assert same(receiver._receive_fast(0).sections, [SECTION, DRAFT])


def test_a_full_ring_is_left_to_python():
    with open_pair(NATIVE) as (sender, receiver, _):
        for step in range(SIZE.num_descriptors):
            sender.send(step, SECTION)
        assert sender._send_fast(99, SECTION, None) == -1
        receiver.receive(1)
        assert sender._send_fast(99, SECTION, None) == -1
        receiver.receive(1)  # which acknowledges the first
        assert sender._send_fast(99, SECTION, None) == SIZE.num_descriptors


def test_sections_of_another_class_go_through_python():
    with open_pair(NATIVE) as (sender, receiver, _):
        for step in range(2):
            assert sender.send(step, LikeASection(*SECTION)) == step
            assert same(receiver.receive(1).sections, [SECTION])
        assert sender.stats.frames == 2


def test_what_is_cached_of_a_frame_that_was_not_sent_is_dropped(monkeypatch):
    """Its roster never came; a frame that refers to it would be lost."""
    other = SECTION._replace(request_ids=("a", "b", "c", "d"))
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION)
        with monkeypatch.context() as patch:
            patch.setattr(sender._ring, "publish", lambda num_bytes: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                sender.send(1, other)
        for step, section in ((1, SECTION), (2, SECTION), (3, other)):
            sender.send(step, section)
        frames = [receiver.receive(1) for _ in range(4)]
        assert [frame.step for frame in frames] == [0, 1, 2, 3]
        assert same(frames[1].sections, [SECTION]) and same(frames[3].sections, [other])


def test_the_first_slice_of_a_wait_counts(monkeypatch):
    """C++ waits for a slice, Python for what is left of the time."""
    begins, wait = [], RingReader.wait

    def record(self, timeout_s, begin=None):
        begins.append(None if begin is None else time.monotonic() - begin)
        wait(self, timeout_s, begin)

    monkeypatch.setattr(receiver_module, "SLICE_S", 0.02)
    monkeypatch.setattr(RingReader, "wait", record)
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION)
        receiver.receive(1)
        begins.clear()
        with pytest.raises(NoFrameError, match="sent no frame 1 for 0.05 s"):
            receiver.receive(0.05)
        assert begins[0] >= 0.02 and receiver._ring.state[State.WAITED_NS] >= 20_000_000
        for timeout_s in (0, -1):
            with pytest.raises(NoFrameError):
                receiver.receive(timeout_s)
            assert begins.pop() is None


def test_a_frame_that_comes_after_the_first_slice_is_read_in_cpp(monkeypatch):
    monkeypatch.setattr(receiver_module, "SLICE_S", 0.001)
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION)
        receiver.receive(1)
        monkeypatch.setattr(receiver._intake, "next_frame", None)  # Python's way
        thread = threading.Thread(target=lambda: (time.sleep(0.05), sender.send(1, SECTION)))
        thread.start()
        assert same(receiver.receive(60).sections, [SECTION])
        thread.join()


def test_limits_are_those_of_the_start():
    """Whoever overwrites the ring's header, wrong it may get, but no end dies of it."""
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION)
        receiver.receive(1)
        ring = open_ring(sender.path, writable=True)
        for word in (Word.CAPACITY, Word.NUM_DESCRIPTORS, Word.MAX_FRAME_BYTES):
            for value in (0, 2**63):
                before, ring.words[word] = ring.words[word], value
                assert sender._send_fast(1, SECTION, None) > 0
                assert same(receiver._receive_fast(0).sections, [SECTION])
                ring.words[word] = before
        ring.close()


def test_impossible_numbers_are_refused():
    module, records, memory = NATIVE.module, np.zeros((2, 8), np.int32), memoryview(bytearray(4096))
    for numbers in ((2, 2**62, 0), (2, 0, 0), (2, 256, 0), (2, 4, 2**16), (2**32, 1, 0), (2**61, 4, 0)):
        with pytest.raises(ValueError, match="records of another shape"):
            module.rows_write(records, *numbers, memory, 0)
        with pytest.raises(ValueError, match="records of another shape"):
            module.rows_read(memory, 0, *numbers, records)
    with pytest.raises(ValueError, match="memory too short"):
        module.rows_write(SECTION.packed_BW, 4, 4, 0, memory[:90], 8)
    for words in (memoryview(bytearray(64)).cast("Q"), memoryview(bytearray(8192)).cast("Q")):
        with pytest.raises(ValueError, match="not the memory of a ring"):
            module.FastSender(words, memory, memoryview(bytearray(8 * len(State))), Section)
    with pytest.raises(IndexError):
        module.store(memory, 512, 1)


IDS = [(), ("a",), ("a", "bc", "def"), ("é", "b", "\U0001f600" * 3), tuple(f"chatcmpl-{n}" for n in range(300))]


@pytest.mark.parametrize("ids", IDS, ids=len)
def test_ids_are_written_and_read_alike(ids):
    module, python = NATIVE.module, PythonIds()
    num_bytes, body = python.write(ids)
    assert module.ids_write(ids) == (num_bytes, body)
    assert module.ids_read(b"xxxx" + body, 4, len(ids), num_bytes) == ids
    assert python.read(body, 0, len(ids), num_bytes, 0) == ids


@pytest.mark.parametrize("ids", [("a", "a"), ("x" * 65536,), ("\ud800",)], ids=["twice", "long", "surrogate"])
def test_ids_that_cannot_be_written_are_left_to_python(ids):
    assert NATIVE.module.ids_write(ids) is None
    with pytest.raises(ValueError, match="twice|at most|surrogates"):
        NATIVE.codec.ids.write(ids)


@pytest.mark.parametrize(
    ("body", "count", "num_bytes"),
    [
        (b"\1\0\1\0ab\0\0", 2, 3),
        (b"\1\0\1\0aa\0\0", 2, 2),
        (b"\2\0\0\0\xff\xfe\0\0", 1, 2),
        (b"\3\0\0\0ab\0\0", 1, 2),
    ],
    ids=["sum", "twice", "UTF-8", "too long"],
)
def test_ids_that_cannot_be_read_are_left_to_python(body, count, num_bytes):
    assert NATIVE.module.ids_read(body, 0, count, num_bytes) is None
    with pytest.raises(FrameError):
        NATIVE.codec.ids.read(body, 0, count, num_bytes, 0)


def test_ids_beyond_the_memory_are_not_read():
    for arguments in ((0, 5, 0), (0, 2**63, 0), (0, 1, 2**63), (9, 0, 0), (4, 1, 4)):
        assert NATIVE.module.ids_read(bytes(8), *arguments) is None


def test_an_end_does_not_keep_arrays_alive():
    class Array(np.ndarray):
        pass

    sender = OutputSender(new_instance(), 0, SIZE, backend=NATIVE)
    array = SECTION.packed_BW.copy().view(Array)
    array.owner = sender  # a cycle through what was sent
    sender.send(0, SECTION._replace(packed_BW=array))
    path, gone = sender.path, weakref.ref(sender)
    del sender, array
    gc.collect()
    assert gone() is None
    path.unlink()
