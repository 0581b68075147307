// SPDX-License-Identifier: Apache-2.0
// The usual case of vllm_ascend_ext/mtp in one call a frame: request ids and shapes are those of the frame before,
// there is room in the ring, and nothing is wrong. Whatever else is the case is left to the code in Python, which
// this is held to by tests. Knows nothing of Python; the layout of frames is in mtp/frame.py, the ring's in
// mtp/ring_file.py, the words of an end's state in mtp/end_state.py.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstring>

#include "mtp_rows.h"
#include "xxh64.h"

using ascend_ext::Shape;

namespace {

constexpr uint64_t kPublished = 32, kAcknowledged = 64, kWriterWaits = 48, kReaderWaits = 80;  // words of the ring
constexpr uint64_t kDescriptorsAt = 4096 / 8;
constexpr uint64_t kHeaderBytes = 64, kSectionBytes = 8, kTrailerBytes = 8;
constexpr uint32_t kMagic = 0x464D5841;  // "AXMF"
constexpr uint32_t kVersion = 1;         // major 1, minor 0
constexpr uint64_t kAbi = 3;             // mtp/end_state.py
constexpr uint64_t kUnusual = 2, kNothing = 1;

// What both ends know; Python writes it when an end is opened and whenever a frame has gone the long way.
struct End {
  uint64_t* words;
  uint8_t* frames;
  uint64_t capacity;
  uint64_t num_descriptors;
  uint64_t max_frame_bytes;
  uint64_t instance;
  uint64_t replica;
  uint64_t sequence;
  uint64_t roster_sequence;
  Shape shapes[2];  // of the target and of the draft, which has no slots when there is none
  // only the writer's
  uint64_t head;
  uint64_t bound;
  uint64_t bytes_sent;
  // only the reader's
  uint64_t step;
  uint64_t sent_ns;
};

struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t length;
  uint16_t num_sections;
  uint16_t flags;
  uint64_t instance;
  uint32_t replica;
  uint32_t reserved;
  uint64_t step;
  uint64_t sequence;
  uint64_t sent_ns;
  uint64_t roster_sequence;
};
static_assert(sizeof(Header) == kHeaderBytes);

struct SectionHead {
  uint16_t kind;
  uint16_t reserved;
  uint32_t bytes;
};
static_assert(sizeof(SectionHead) == kSectionBytes);

uint64_t Load(const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

void Store(uint64_t* word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);  // before the look at who waits, or at the word that is waited for
}

void Publish(uint64_t* word, uint64_t value, const uint64_t* waits) {
  Store(word, value);
  const uint64_t wanted = __atomic_load_n(waits, __ATOMIC_RELAXED);  // 0 when nobody waits
  if (wanted && value >= wanted) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

uint64_t* Descriptor(const End& end, uint64_t sequence) {
  return end.words + kDescriptorsAt + 2 * (sequence % end.num_descriptors);
}

// Where a frame of `bound` bytes may begin, as a position; false when there is no room now.
bool Reserve(const End& end, uint64_t* position) {
  const uint64_t acknowledged = Load(end.words + kAcknowledged), offset = end.head % end.capacity;
  *position = offset + end.bound > end.capacity ? end.head + end.capacity - offset : end.head;
  if (end.bound > end.max_frame_bytes) {
    return false;
  }
  return acknowledged == end.sequence ||
         (end.sequence - acknowledged < end.num_descriptors &&
          *position + end.bound - *Descriptor(end, acknowledged) <= end.capacity);
}

// Bytes of the frame, or 0 when a record is impossible.
uint64_t WriteFrame(const End& end, uint64_t step, const int32_t* const records[2], uint8_t* frame) {
  uint8_t* at = frame + kHeaderBytes;
  uint16_t num_sections = 0;
  for (uint16_t source = 0; source < 2 && end.shapes[source].slots; ++source, ++num_sections) {
    const int64_t bytes = ascend_ext::WriteRows(records[source], end.shapes[source], at + kSectionBytes);
    if (bytes < 0) {
      return 0;
    }
    const SectionHead head{static_cast<uint16_t>(source + 1), 0, static_cast<uint32_t>(bytes)};
    std::memcpy(at, &head, sizeof(head));
    at += kSectionBytes + bytes;
  }
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t length = at + kTrailerBytes - frame;
  const Header header{kMagic, kVersion, static_cast<uint32_t>(length), num_sections, 0,
                      end.instance, static_cast<uint32_t>(end.replica), 0, step, end.sequence,
                      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec),
                      end.roster_sequence};
  std::memcpy(frame, &header, sizeof(header));
  const uint64_t checksum = ascend_ext::Xxh64(frame, length - kTrailerBytes);
  std::memcpy(at, &checksum, sizeof(checksum));
  return length;
}

bool IsExpected(const Header& header, const End& end, uint64_t length) {
  return header.magic == kMagic && header.version == kVersion && header.length == length &&
         header.instance == end.instance && header.replica == end.replica && header.sequence == end.sequence &&
         header.roster_sequence == end.roster_sequence && header.num_sections == (end.shapes[1].slots ? 2 : 1);
}

// Whether this is frame `end.sequence` as expected: whole, with the known roster and sections of the known shapes.
bool ReadFrame(End& end, const uint8_t* frame, uint64_t length, int32_t* const records[2]) {
  Header header;
  uint64_t checksum;
  if (length < kHeaderBytes + kTrailerBytes || length > end.max_frame_bytes) {
    return false;
  }
  std::memcpy(&header, frame, sizeof(header));
  std::memcpy(&checksum, frame + length - kTrailerBytes, sizeof(checksum));
  if (!IsExpected(header, end, length) || checksum != ascend_ext::Xxh64(frame, length - kTrailerBytes)) {
    return false;
  }
  // A writer without fences may have been seen to publish before it wrote. What is loaded after the hash is what
  // was hashed; the copy before may be of an older frame with the same fields.
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  std::memcpy(&header, frame, sizeof(header));
  if (!IsExpected(header, end, length)) {
    return false;
  }
  const uint8_t *at = frame + kHeaderBytes, *stop = frame + length - kTrailerBytes;
  for (uint16_t source = 0; source < header.num_sections; ++source) {
    SectionHead head;
    if (static_cast<uint64_t>(stop - at) < kSectionBytes) {
      return false;
    }
    std::memcpy(&head, at, sizeof(head));
    at += kSectionBytes;
    if (head.kind != source + 1 || head.bytes > static_cast<uint64_t>(stop - at) ||
        !ascend_ext::IsBodyOf(at, head.bytes, end.shapes[source]) ||
        ascend_ext::ReadRows(at, end.shapes[source], records[source]) != 0) {
      return false;
    }
    at += head.bytes;
  }
  end.step = header.step;
  end.sent_ns = header.sent_ns;
  return at == stop;
}

}  // namespace

extern "C" {

uint64_t ascend_ext_abi() { return kAbi; }

uint64_t ascend_ext_state_words() { return sizeof(End) / 8; }

// Sends a frame of records of the known shapes. Returns 0, or kUnusual having done nothing.
uint64_t ascend_ext_send(End* end, uint64_t step, const int32_t* target, const int32_t* draft) {
  uint64_t position;
  if (!Reserve(*end, &position)) {
    return kUnusual;
  }
  const int32_t* const records[2] = {target, draft};
  const uint64_t length = WriteFrame(*end, step, records, end->frames + position % end->capacity);
  if (!length) {
    return kUnusual;
  }
  uint64_t* descriptor = Descriptor(*end, end->sequence);
  descriptor[0] = position;
  descriptor[1] = length;
  end->head = position + (length + 7) / 8 * 8;
  end->bytes_sent += length;
  Publish(end->words + kPublished, ++end->sequence, end->words + kReaderWaits);
  return 0;
}

// Acknowledges what was read before, and reads the next frame into the records. Returns 0, kNothing when there is no
// frame, or kUnusual when the frame is for Python to read.
uint64_t ascend_ext_receive(End* end, int32_t* target, int32_t* draft) {
  if (*(end->words + kAcknowledged) != end->sequence) {
    Publish(end->words + kAcknowledged, end->sequence, end->words + kWriterWaits);
  }
  if (Load(end->words + kPublished) <= end->sequence) {
    return kNothing;
  }
  const uint64_t* descriptor = Descriptor(*end, end->sequence);
  const uint64_t offset = descriptor[0] % end->capacity, length = descriptor[1];
  int32_t* const records[2] = {target, draft};
  if (length > end->capacity - offset || !ReadFrame(*end, end->frames + offset, length, records)) {
    return kUnusual;
  }
  ++end->sequence;
  return 0;
}

// As ascend_ext_receive, but where there is no frame it sleeps until one is published, for `timeout_ns` at most; may
// return early with kNothing. The only function here that sleeps.
uint64_t ascend_ext_receive_within(End* end, int32_t* target, int32_t* draft, uint64_t timeout_ns) {
  const uint64_t code = ascend_ext_receive(end, target, draft);
  if (code != kNothing) {
    return code;
  }
  uint64_t *published = end->words + kPublished, *waits = end->words + kReaderWaits;
  Store(waits, end->sequence + 1);
  if (Load(published) <= end->sequence) {
    const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                           static_cast<long>(timeout_ns % 1'000'000'000)};
    syscall(SYS_futex, published, FUTEX_WAIT, static_cast<uint32_t>(end->sequence), &timeout, nullptr, 0);
  }
  Store(waits, 0);
  return ascend_ext_receive(end, target, draft);
}

// A body alone; see WriteRows and ReadRows.
int64_t ascend_ext_rows_write(const int32_t* packed, uint64_t batch, uint64_t slots, uint64_t top_k, uint8_t* out) {
  return ascend_ext::WriteRows(packed, Shape{batch, slots, top_k}, out);
}

int64_t ascend_ext_rows_read(const uint8_t* frame, uint64_t at, uint64_t batch, uint64_t slots, uint64_t top_k,
                             int32_t* packed) {
  return ascend_ext::ReadRows(frame + at, Shape{batch, slots, top_k}, packed);
}

uint64_t ascend_ext_xxh64(const uint8_t* at, uint64_t bytes) { return ascend_ext::Xxh64(at, bytes); }

void ascend_ext_store(uint64_t* word, uint64_t value) { Store(word, value); }

void ascend_ext_publish(uint64_t* word, uint64_t value, const uint64_t* waits) { Publish(word, value, waits); }

}  // extern "C"
