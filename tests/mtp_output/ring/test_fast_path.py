# SPDX-License-Identifier: Apache-2.0
"""The fast path in C++: which frames take it, which do not, and that none is lost between it and Python."""

import gc
import itertools
import threading
import time
import weakref
from typing import NamedTuple

import numpy as np
import pytest

from tests.mtp_output.ring.fuzz import next_ids, of_ids
from tests.mtp_output.ring.rings import BACKENDS, SIZE, backend, new_instance, open_pair, random_section, same
from vllm_ascend_ext.mtp_output import receiver as receiver_module
from vllm_ascend_ext.mtp_output.errors import ChannelSizeError, NoFrameError
from vllm_ascend_ext.mtp_output.frames.frame import Source
from vllm_ascend_ext.mtp_output.frames.section import Section
from vllm_ascend_ext.mtp_output.receiver import OutputReceiver
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
    "another source": (1, SECTION._replace(source=Source.DRAFT), None),
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
        assert receiver._receive_fast(0) is None  # it knows no roster
        frames = [receiver.receive(1)] + [receiver._receive_fast(0) for _ in range(2)]
        assert [frame.step for frame in frames] == [0, 1, 2]
        assert all(same(frame.sections, [SECTION]) for frame in frames)


def test_target_and_draft_take_the_fast_path_together():
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION, DRAFT)
        receiver.receive(1)
        for step, sections in enumerate(([SECTION, DRAFT], [SECTION], [SECTION, DRAFT]), 1):
            assert sender._send_fast(step, sections[0], sections[1] if sections[1:] else None) == step
            assert same(receiver._receive_fast(0).sections, sections)


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
                sender._send(1, other, None, 1.0)
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
            module.FastSender(words, memory, memoryview(bytearray(8 * len(State))), Section, 1)
    with pytest.raises(IndexError):
        module.store(memory, 512, 1)


def test_changed_batches_take_the_fast_path():
    """In all pairs of backends, with requests that come and go, draft rows of the same and of other requests."""
    rng = np.random.default_rng(3)
    for sending, receiving in itertools.product(BACKENDS, repeat=2):
        with open_pair(backend(sending), receiving=backend(receiving)) as (sender, receiver, _):
            ids, num_fast = ("a", "b", "c", "d"), 0
            for step in range(400):
                ids = next_ids(rng, ids, 8)
                sections = [of_ids(random_section(rng, Source.TARGET, len(ids)), ids)]
                if draft_ids := ((), ids, ids[::2])[rng.integers(3)]:
                    sections.append(of_ids(random_section(rng, Source.DRAFT, len(draft_ids)), draft_ids))
                by = sender._send_fast(step, sections[0], sections[1] if sections[1:] else None)
                if sending == "native":
                    assert (by < 0) == (step == 0)
                if by < 0:
                    sender.send(step, *sections)
                frame = receiver._receive_fast(0)
                num_fast += frame is not None
                frame = frame or receiver.receive(1)
                assert frame.step == step and same(frame.sections, sections)
            assert num_fast == (399 if receiving == "native" else 0)


def test_python_and_the_fast_path_go_on_where_the_other_ended():
    """And write the same bytes, but for the time."""
    rng, ids, lengths = np.random.default_rng(4), ("a", "b", "c", "d"), {}
    batches = [ids := next_ids(rng, ids, 8) for _ in range(200)]
    for of in ("python", "native", "both"):
        with open_pair(backend(of if of == "python" else "native")) as (sender, receiver, _):
            lengths[of] = []
            for step, ids in enumerate(batches):
                section = of_ids(random_section(np.random.default_rng(step), Source.TARGET, len(ids)), ids)
                if of == "both" and step % 3 == 0:
                    sender._send(step, section, None, 1.0)
                else:
                    sender.send(step, section)
                at = sender._ring._file.descriptor(step)
                begin, length = sender._ring._words[at] % SIZE.capacity, sender._ring._words[at + 1]
                data = bytes(sender._ring.frames[begin : begin + length])
                lengths[of].append(data[32:48] + data[56:-8])
                frame = receiver._receive(1) if step % 5 == 0 else receiver.receive(1)
                assert same(frame.sections, [section])
    assert lengths["python"] == lengths["native"] == lengths["both"]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_reader_that_starts_at_a_change_knows_the_batch(name):
    """What the reader before it has kept is the roster that the first unacknowledged frame changes."""
    with open_pair(backend(name)) as (sender, receiver, _):
        rng, ids = np.random.default_rng(5), tuple("abcdefgh")
        for step in range(30):
            section = of_ids(random_section(rng, Source.TARGET, len(ids)), ids)
            sender.send(step, section)
            assert same(receiver.receive(1).sections, [section])  # which is not acknowledged
            _, instance, _ = sender.path.name.split("-")
            receiver.close()
            again = OutputReceiver(int(instance), 0, timeout_s=5, backend=backend(name))
            assert same(again.receive(1).sections, [section])
            again.acknowledge()
            again.close()
            receiver.__init__(int(instance), 0, timeout_s=5, backend=backend(name))
            ids = (*ids[: step % 8], f"new-{step}", *ids[step % 8 + 1 :])


@pytest.mark.parametrize("name", BACKENDS)
def test_ids_longer_than_the_ring_was_made_for_are_refused(name):
    with open_pair(backend(name)) as (sender, receiver, _):
        sender.send(0, of_ids(SECTION, tuple("abcd")))
        with pytest.raises(ChannelSizeError, match="request ids of .* bytes; .* was made for"):
            sender.send(1, of_ids(SECTION, ("x" * 5000, *"bcd")))
        assert sender.send(1, of_ids(SECTION, tuple("abcX"))) == 1
        assert [receiver.receive(1).sections[0].request_ids[3] for _ in range(2)] == ["d", "X"]


IDS_LEFT_TO_PYTHON = {
    "twice": ("a", "b", "a", "d"),
    "long": ("x" * 65536, "b", "c", "d"),
    "surrogate": ("\ud800", "b", "c", "d"),
}


@pytest.mark.parametrize("case", IDS_LEFT_TO_PYTHON)
def test_ids_that_cannot_be_written_are_left_to_python(case):
    with open_pair(NATIVE) as (sender, receiver, _):
        sender.send(0, SECTION)
        bad = of_ids(SECTION, IDS_LEFT_TO_PYTHON[case])
        assert sender._send_fast(1, bad, None) == -1
        with pytest.raises(ValueError, match="twice|at most|surrogates"):
            sender.send(1, bad)
        assert sender.send(1, SECTION) == 1
        assert all(same(receiver.receive(1).sections, [SECTION]) for _ in range(2))


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
