// SPDX-License-Identifier: Apache-2.0
#include "mtp_ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "xxh64.h"

namespace ascend_ext {
namespace {

constexpr uint64_t kPublished = 32, kAcknowledged = 64, kWriterWaits = 48, kReaderWaits = 80;  // words of the ring
constexpr uint64_t kHeaderBytes = 64, kSectionBytes = 8, kTrailerBytes = 8;
constexpr uint64_t kLineBytes = 64, kFetchedBytes = 8192;
constexpr uint32_t kMagic = 0x464D5841;  // "AXMF"
constexpr uint32_t kVersion = 1;         // major 1, minor 0

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

uint64_t Nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t* Descriptor(const End& end, uint64_t sequence) {
  return end.words + kDescriptorsAt + 2 * (sequence % end.num_descriptors);
}

// Where a frame of `bound` bytes may begin, as a position; false when there is no room now.
bool Reserve(const End& end, uint64_t* position) {
  const uint64_t acknowledged = Load(end.words + kAcknowledged), bound = end.expected.bound,
                 head = end.state->head;
  const uint64_t capacity = end.capacity, offset = head % capacity, sequence = end.state->sequence;
  *position = offset + bound > capacity ? head + capacity - offset : head;
  if (bound > end.max_frame_bytes) {
    return false;
  }
  return acknowledged == sequence || (sequence - acknowledged < end.num_descriptors &&
                                      *position + bound - *Descriptor(end, acknowledged) <= capacity);
}

uint16_t NumSections(const End& end) { return end.expected.shapes[1].slots ? 2 : 1; }

// Bytes of the frame, or 0 when a record is impossible.
uint64_t WriteFrame(const End& end, uint64_t step, const int32_t* const records[2], uint8_t* frame) {
  const uint16_t num_sections = NumSections(end);
  uint8_t* at = frame + kHeaderBytes;
  for (uint16_t source = 0; source < num_sections; ++source) {
    const int64_t bytes = WriteRows(records[source], end.expected.shapes[source], at + kSectionBytes);
    if (bytes < 0) {
      return 0;
    }
    const SectionHead head{static_cast<uint16_t>(source + 1), 0, static_cast<uint32_t>(bytes)};
    std::memcpy(at, &head, sizeof(head));
    at += kSectionBytes + bytes;
  }
  const uint64_t length = at + kTrailerBytes - frame;
  const Header header{kMagic,
                      kVersion,
                      static_cast<uint32_t>(length),
                      num_sections,
                      0,
                      end.instance,
                      static_cast<uint32_t>(end.replica),
                      0,
                      step,
                      end.state->sequence,
                      Nanoseconds(CLOCK_REALTIME),
                      end.expected.roster_sequence};
  std::memcpy(frame, &header, sizeof(header));
  const uint64_t checksum = Xxh64(frame, length - kTrailerBytes);
  std::memcpy(at, &checksum, sizeof(checksum));
  return length;
}

bool IsExpected(const Header& header, const End& end, uint64_t length) {
  return header.magic == kMagic && header.version == kVersion && header.length == length &&
         header.instance == end.instance && header.replica == end.replica &&
         header.sequence == end.state->sequence && header.roster_sequence == end.expected.roster_sequence &&
         header.num_sections == NumSections(end);
}

// Returns whether this is the next frame as expected: whole, with the cached roster and sections of the cached
// shapes.
bool ReadFrame(const End& end, const uint8_t* frame, uint64_t length, int32_t* const records[2], Stamp* stamp) {
  Header header;
  uint64_t checksum;
  if (length < kHeaderBytes + kTrailerBytes || length > end.max_frame_bytes) {
    return false;
  }
  std::memcpy(&header, frame, sizeof(header));
  std::memcpy(&checksum, frame + length - kTrailerBytes, sizeof(checksum));
  if (!IsExpected(header, end, length) || checksum != Xxh64(frame, length - kTrailerBytes)) {
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
    const Shape& shape = end.expected.shapes[source];
    SectionHead head;
    if (static_cast<uint64_t>(stop - at) < kSectionBytes) {
      return false;
    }
    std::memcpy(&head, at, sizeof(head));
    at += kSectionBytes;
    if (head.kind != source + 1 || head.bytes > static_cast<uint64_t>(stop - at) ||
        !IsBodyOf(at, head.bytes, shape) || ReadRows(at, shape, records[source]) != 0) {
      return false;
    }
    at += head.bytes;
  }
  *stamp = {header.step, header.sequence, header.sent_ns};
  return at == stop;
}

}  // namespace

bool Send(const End& end, uint64_t step, const int32_t* const records[2]) {
  State& state = *end.state;
  uint64_t position;
  if (!Reserve(end, &position)) {
    return false;
  }
  const uint64_t length = WriteFrame(end, step, records, end.frames + position % end.capacity);
  if (!length) {
    return false;
  }
  uint64_t* descriptor = Descriptor(end, state.sequence);
  descriptor[0] = position;
  descriptor[1] = length;
  state.head = position + (length + 7) / 8 * 8;
  state.bytes_sent += length;
  ++state.num_sent;
  Publish(end.words + kPublished, ++state.sequence, end.words + kReaderWaits);
  return true;
}

void Acknowledge(const End& end) {
  uint64_t* acknowledged = end.words + kAcknowledged;
  if (*acknowledged != end.state->sequence) {
    Publish(acknowledged, end.state->sequence, end.words + kWriterWaits);
  }
}

Outcome Receive(const End& end, int32_t* const records[2], Stamp* stamp) {
  if (Load(end.words + kPublished) <= end.state->sequence) {
    return Outcome::kNothing;
  }
  const uint64_t* descriptor = Descriptor(end, end.state->sequence);
  const uint64_t offset = descriptor[0] % end.capacity, length = descriptor[1];
  if (length > end.capacity - offset) {
    return Outcome::kNoFastPath;
  }
  const uint8_t* frame = end.frames + offset;
  for (uint64_t at = 0; at < std::min(length, kFetchedBytes); at += kLineBytes) {
    __builtin_prefetch(frame + at);  // the lines are the writer's: to wait for one after the other would take long
  }
  return ReadFrame(end, frame, length, records, stamp) ? Outcome::kRead : Outcome::kNoFastPath;
}

void AwaitFrame(const End& end, uint64_t timeout_ns) {
  const uint64_t sequence = end.state->sequence;
  uint64_t *published = end.words + kPublished, *waits = end.words + kReaderWaits;
  Store(waits, sequence + 1);
  if (Load(published) <= sequence) {
    const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                           static_cast<long>(timeout_ns % 1'000'000'000)};
    syscall(SYS_futex, published, FUTEX_WAIT, static_cast<uint32_t>(sequence), &timeout, nullptr, 0);
  }
  __atomic_store_n(waits, 0, __ATOMIC_RELAXED);
}

void Store(uint64_t* word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void Publish(uint64_t* word, uint64_t value, const uint64_t* waits) {
  Store(word, value);
  const uint64_t wanted = __atomic_load_n(waits, __ATOMIC_RELAXED);  // 0 when nobody waits
  if (wanted && value >= wanted) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }
}

uint64_t MonotonicNs() { return Nanoseconds(CLOCK_MONOTONIC); }

}  // namespace ascend_ext
