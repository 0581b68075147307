# SPDX-License-Identifier: Apache-2.0
"""Frames: what is written is read, by both backends alike; what is damaged is refused whole."""

import struct
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mtp_output.ring.fuzz import frames_of, fuzz, fuzz_ring, sealed
from tests.mtp_output.ring.rings import BACKENDS, backend, random_section, same
from vllm_ascend_ext.mtp_output.errors import FrameError, FrameVersionError, UnknownRosterError
from vllm_ascend_ext.mtp_output.frames.frame import FrameReader, FrameWriter, Section, Source
from vllm_ascend_ext.mtp_output.frames.parts import CHANGE_KIND, ROSTER_KIND, SECTION
from vllm_ascend_ext.mtp_output.frames.roster_change import MAX_CHANGES
from vllm_ascend_ext.mtp_output.frames.rows import MAX_RECORD_BYTES
from vllm_ascend_ext.mtp_output.ring import backend as native
from vllm_ascend_ext.mtp_output.ring.end_state import ABI


def written(of, sections, sequence=0, writer=None):
    memory = np.full(1 << 21, 0xAB, np.uint8)
    writer = writer or FrameWriter(2**63, 3, of.rows)
    bound = writer.bound(sections)
    length = writer.write(memory.data, 8, 5, sequence, sections)
    assert length <= bound
    assert (memory[:8] == 0xAB).all() and (memory[8 + bound :] == 0xAB).all()
    return memory[8 : 8 + length].tobytes()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    batch=st.sampled_from([0, 1, 2, 7, 33, 513]),
    slots=st.sampled_from([1, 2, 4, 7, 8, 9, 21, 255]),
    top_k=st.sampled_from([0, 0, 1, 3, 20]),
)
def test_both_backends_write_the_same_and_read_it(seed, batch, slots, top_k):
    if batch * slots * (1 + 2 * top_k) > 200_000:
        batch = 3
    rng = np.random.default_rng(seed)
    sections = [random_section(rng, Source.TARGET, batch, slots, top_k)]
    if seed % 2:
        prefix = "draft" if seed % 4 > 1 else "request"
        sections.append(random_section(rng, Source.DRAFT, batch, max(slots - 1, 1), prefix=prefix))
    python, native = (written(backend(name), tuple(sections)) for name in BACKENDS)
    sent_at = slice(48, 56)
    assert python[:48] + python[56:-8] == native[:48] + native[56:-8] and python[sent_at] != bytes(8)
    for name in BACKENDS:
        frame = FrameReader(backend(name).rows).read(python)
        assert (frame.instance, frame.replica, frame.step, frame.sequence) == (2**63, 3, 5, 0)
        assert same(frame.sections, sections)


def test_bytes_are_proportional_to_accepted_tokens():
    def length(num_accepted):
        counts = np.full(256, num_accepted, np.int32)
        section = Section.from_arrays(
            *(Source.TARGET, tuple(map(str, range(256))), counts, counts * 0, np.zeros((256, 4), np.int32))
        )
        writer = FrameWriter(0, 0, backend("python").rows)
        written(backend("python"), (section,), writer=writer)
        return len(written(backend("python"), (section,), sequence=1, writer=writer))

    assert [length(number) - length(0) for number in (1, 2, 4)] == [1024, 2048, 4096]
    assert length(0) == 64 + 8 + 16 + 512 + 8  # a byte for the count and one for the status


def test_our_checksum_is_xxh3():
    module, rng = backend("native").module, np.random.default_rng(0)
    for length in [*range(9, 1200), 2047, 2048, 2049, 4097, 100_001]:
        data = rng.bytes(length)
        assert module.xxh3(data) == xxhash.xxh3_64_intdigest(data)


def test_a_stale_module_is_refused(monkeypatch, tmp_path):
    built = Path(backend("native").module.__file__)
    monkeypatch.setattr(native, "ABI", ABI + 1)
    with pytest.raises(OSError, match="built from other sources"):
        native.native_backend(built.parent)
    monkeypatch.setattr(native, "ABI", ABI)
    monkeypatch.setattr(native, "__version__", "0.0.1")
    with pytest.raises(OSError, match="built from other sources"):
        native.native_backend(built.parent)
    monkeypatch.undo()
    (tmp_path / "ring.h").write_text("// as it was changed since")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    with pytest.raises(OSError, match="built from other sources"):
        native.native_backend(built.parent)
    monkeypatch.undo()
    (tmp_path / built.name).write_bytes(b"no module")
    with pytest.raises(OSError, match="built from other sources"):
        native.native_backend(tmp_path)
    for name in ("ascend_ext_channel.cpython-39-x86_64-linux-gnu.so", "libascend_ext_channel.so"):
        monkeypatch.setattr(native, "FOLDER", tmp_path / name[:3])
        native.FOLDER.mkdir()
        assert native.installed_backend().name == "python"
        (native.FOLDER / name).touch()
        with pytest.raises(OSError, match=r"is not there, only \['.*'\], of another Python or version"):
            native.installed_backend()


@pytest.mark.parametrize("name", BACKENDS)
def test_every_truncation_and_every_flipped_bit_is_refused(name):
    data = frames_of(backend(name), 3, 1)[0][0]
    damages = [data[:length] for length in range(len(data))] + [data + b"\0"]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        damages.append(bytes(changed))
    for damage in damages:
        with pytest.raises(FrameError, match="bad frame at byte"):
            FrameReader(backend(name).rows).read(damage)


@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_fuzzed_frames(name, seed):
    refused, accepted = fuzz(backend(name), 100, seed)
    assert refused > accepted


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_frames_in_a_ring(seed):
    left, read = fuzz_ring(4_000, seed)
    assert left > 2_000 and read > 100


def test_sections_of_the_next_minor_version_are_skipped_and_its_major_is_refused():
    rng = np.random.default_rng(1)
    sections = [random_section(rng, Source.TARGET, 3)]
    data = written(backend("python"), tuple(sections))
    num_sections = struct.unpack_from("<H", data, 12)[0]
    unknown = SECTION.pack(999, 1, 12) + b"something new"[:12]
    for at in (64, len(data) - 8):  # before and after those that are known
        newer = bytearray(data[:at] + unknown + data[at:])
        struct.pack_into("<H", newer, 6, 1)  # minor 1; the length is set by `sealed`
        struct.pack_into("<H", newer, 12, num_sections + 1)
        frame = FrameReader(backend("python").rows).read(sealed(bytes(newer)))
        assert same(frame.sections, sections)
    other = bytearray(data)
    struct.pack_into("<H", other, 4, 1)
    with pytest.raises(FrameVersionError, match="major version 1; this reader knows 2"):
        FrameReader(backend("python").rows).read(sealed(bytes(other)))


def test_a_few_bytes_cannot_ask_for_much_memory():
    section = random_section(np.random.default_rng(1), Source.TARGET, 4, slots=4)
    section.packed_BW[:, 0] = 0
    data = bytearray(written(backend("python"), (section,)))
    rows_at = data.rindex(struct.pack("<IHHI", 4, 4, 0, 0))
    struct.pack_into("<IHHI", data, rows_at, 4, 255, 65535, 0)
    with pytest.raises(FrameError, match=f"more than {MAX_RECORD_BYTES} bytes"):
        FrameReader(backend("python").rows).read(sealed(bytes(data)))


def test_a_frame_that_was_not_published_is_written_again_with_its_roster():
    of = backend("python")
    writer, reader = FrameWriter(0, 0, of.rows), FrameReader(of.rows)
    section = random_section(np.random.default_rng(0), Source.TARGET, 2)
    written(of, (section,), 7, writer)
    assert same(reader.read(written(of, (section,), 7, writer)).sections, [section])
    assert same(reader.read(written(of, (section,), 8, writer)).sections, [section])


def of_ids(*request_ids):
    return random_section(np.random.default_rng(1), Source.TARGET, len(request_ids))._replace(
        request_ids=request_ids
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_only_ids_that_changed_are_sent(name):
    """Rows that keep their request cost nothing, however long its id is."""
    of, ids = backend(name), [f"request-{row}-{'x' * 40}" for row in range(64)]
    writer, reader, lengths = FrameWriter(0, 0, of.rows), FrameReader(of.rows), []
    for sequence in range(4):
        section = of_ids(*ids)
        data = written(of, (section,), sequence, writer)
        assert same(reader.read(data).sections, [section])
        lengths.append(len(data))
        ids[7 * sequence], ids[9] = f"new-{sequence}", "ninth"
    plain = len(written(of, (section,), 4, writer))
    assert lengths[0] - plain > 64 * 50 and [length - plain for length in lengths[1:]] == [
        8 + 16 + 16 + 2 * 4 + 4 + 12,  # heads, two rows, two lengths, "new-0ninth"
        8 + 16 + 16 + 4 + 4 + 8,
        8 + 16 + 16 + 4 + 4 + 8,
    ]


def test_a_whole_roster_follows_after_many_changes():
    of, ids = backend("python"), [f"request-{row}" for row in range(16)]
    writer, kinds = FrameWriter(0, 0, of.rows), []
    for sequence in range(2 * (MAX_CHANGES + 1)):
        ids[sequence % 16] = f"new-{sequence}"
        kinds.append(*struct.unpack_from("<H", written(of, (of_ids(*ids),), sequence, writer), 64))
    assert kinds == 2 * ([ROSTER_KIND] + MAX_CHANGES * [CHANGE_KIND])


WRONG_CHANGES = {
    "of another base": (6, (1, 3, 1, 1), (0,), b"\1\0\0\0x\0\0\0", "not known"),
    "a row outside": (5, (1, 3, 1, 1), (3,), b"\1\0\0\0x\0\0\0", "row 3 after -1, of 3"),
    "rows that descend": (5, (1, 3, 2, 2), (1, 0), b"\1\0\1\0xy\0\0", "row 0 after 1"),
    "an id that is there": (5, (1, 3, 1, 1), (0,), b"\1\0\0\0b\0\0\0", "comes twice"),
    "a row without an id": (5, (1, 5, 1, 1), (4,), b"\1\0\0\0x\0\0\0", "5 ids of 3 old and 1 new"),
    "a gap": (5, (1, 4, 1, 1), (0,), b"\1\0\0\0x\0\0\0", "1 are missing"),
    "a text too short": (5, (1, 3, 1, 2), (0,), b"\1\0\0\0x\0\0\0", "ids of 1 bytes in a text of 2"),
    "no UTF-8": (5, (1, 3, 1, 1), (0,), b"\1\0\0\0\xff\0\0\0", "not UTF-8"),
    "more than there is": (5, (1, 3, 2**30, 1), (0,), b"\1\0\0\0x\0\0\0", "do not fit their change"),
}


@pytest.mark.parametrize("case", WRONG_CHANGES)
def test_impossible_changes_are_refused(case):
    base, head, rows, ids, message = WRONG_CHANGES[case]
    of = backend("python")
    writer, reader = FrameWriter(2**63, 3, of.rows), FrameReader(of.rows)
    reader.read(written(of, (of_ids("a", "b", "c"),), 5, writer))
    plain = written(of, (of_ids("a", "b", "c"),), 6, writer)
    change = struct.pack("<QII", base, 1, 0) + struct.pack("<IIII", *head) + struct.pack(f"<{len(rows)}I", *rows)
    part = SECTION.pack(CHANGE_KIND, 0, len(change + ids)) + change + ids
    data = bytearray(plain[:64] + part + plain[64:])
    struct.pack_into("<H", data, 12, 2)
    struct.pack_into("<Q", data, 56, 6)
    before = reader.roster_sequence, reader.roster
    with pytest.raises(FrameError, match=message):
        reader.read(sealed(bytes(data)))
    assert (reader.roster_sequence, reader.roster) == before


def test_a_frame_under_a_roster_that_was_not_seen():
    section, of = random_section(np.random.default_rng(1), Source.TARGET, 3), backend("python")
    writer, first = FrameWriter(0, 0, of.rows), FrameReader(of.rows)
    data = [written(of, (section,), sequence, writer) for sequence in range(4, 6)]
    assert len(data[1]) < len(data[0])
    late = FrameReader(of.rows)
    with pytest.raises(UnknownRosterError, match="roster of frame 4"):
        late.read(data[1])
    first.read(data[0])
    late.adopt(first.roster_sequence, first.roster)
    assert same(late.read(data[1]).sections, [section])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("word", "value"), [(0, 5), (0, -1), (1, 256), (1, -1)])
def test_impossible_records_are_not_sent(name, word, value):
    section = random_section(np.random.default_rng(1), Source.TARGET, 3)
    section.packed_BW[1, word] = value
    with pytest.raises(ValueError, match="counts are 0 to 4 and statuses bytes"):
        written(backend(name), (section,))


def test_impossible_sections():
    records = np.zeros((2, 16), np.int32)
    with pytest.raises(ValueError, match=r"\[3, 16\]"):
        Section.from_packed(("a", "b", "c"), records, 4, 0)
    with pytest.raises(ValueError, match="1 to 255 token slots"):
        Section.from_packed(("a", "b"), records, 256, 0)
    with pytest.raises(ValueError, match="one after the other"):
        Section.from_packed(("a", "b"), np.zeros((2, 32), np.int32)[:, ::2], 4, 0)
    with pytest.raises(ValueError, match="an id comes twice"):
        written(backend("python"), (Section.from_packed(("a", "a"), records, 4, 0),))
