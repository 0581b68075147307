// SPDX-License-Identifier: Apache-2.0
#include "mtp_ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstring>

#include "xxh3.h"

namespace ascend_ext {
namespace {

constexpr uint64_t kPublished = 32, kAcknowledged = 64, kWriterWaits = 48, kReaderWaits = 80;  // words of the ring
constexpr uint64_t kLineBytes = 64, kFetchedBytes = 8192;
constexpr uint64_t kLapBytes = 1u << 20;  // LAP_BYTES in mtp_output/ring/size.py
constexpr uint32_t kMagic = 0x464D5841;   // "AXMF"
constexpr uint32_t kVersion = 2;          // major 2, minor 0

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

// The head of a place for a roster: ROSTER_SLOT_HEAD in mtp_output/ring/size.py.
struct RosterHead {
  uint64_t sequence;
  uint64_t bytes;
  uint64_t checksum;
  uint64_t zero;
};

uint64_t Load(const uint64_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

uint64_t Nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t* Descriptor(const End& end, uint64_t sequence) {
  return end.words + kDescriptorsAt + 2 * (sequence % end.num_descriptors);
}

bool IsExpected(const Header& header, const End& end, uint64_t length) {
  return header.magic == kMagic && header.version == kVersion && header.length == length &&
         header.instance == end.instance && header.replica == end.replica &&
         header.sequence == end.state->sequence && header.num_sections <= kMaxSections;
}

// Finds the sections of a frame; false when they do not fill it.
bool Split(const uint8_t* at, const uint8_t* stop, WholeFrame* found) {
  for (int index = 0; index < found->num_sections; ++index) {
    SectionHead head;
    if (static_cast<uint64_t>(stop - at) < kSectionBytes) {
      return false;
    }
    std::memcpy(&head, at, sizeof(head));
    at += kSectionBytes;
    if (head.bytes % 4 || head.bytes > static_cast<uint64_t>(stop - at)) {
      return false;
    }
    found->sections[index] = {head.kind, head.bytes, at};
    at += head.bytes;
  }
  return at == stop;
}

// Returns whether this is the next frame, and whole.
bool IsWhole(const End& end, const uint8_t* frame, uint64_t length, WholeFrame* found) {
  Header header;
  uint64_t checksum;
  if (length < kHeaderBytes + kTrailerBytes || length > end.max_frame_bytes) {
    return false;
  }
  std::memcpy(&header, frame, sizeof(header));
  std::memcpy(&checksum, frame + length - kTrailerBytes, sizeof(checksum));
  if (!IsExpected(header, end, length) || checksum != Xxh3(frame, length - kTrailerBytes)) {
    return false;
  }
  // A writer without fences may have been seen to publish before it wrote. What is loaded after the hash is what
  // was hashed; the copy before may be of an older frame with the same fields.
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  std::memcpy(&header, frame, sizeof(header));
  if (!IsExpected(header, end, length)) {
    return false;
  }
  found->stamp = {header.step, header.sequence, header.sent_ns, header.roster_sequence};
  found->num_sections = header.num_sections;
  return Split(frame + kHeaderBytes, frame + length - kTrailerBytes, found);
}

}  // namespace

uint8_t* Reserve(const End& end, uint64_t bound, uint64_t* position) {
  const uint64_t acknowledged = Load(end.words + kAcknowledged), head = end.state->head;
  const uint64_t capacity = end.capacity, offset = head % capacity, sequence = end.state->sequence;
  const bool is_empty = acknowledged == sequence;
  *position = offset + bound > capacity || (is_empty && offset > kLapBytes) ? head + capacity - offset : head;
  if (bound > end.max_frame_bytes) {
    return nullptr;
  }
  const bool has_room = is_empty || (sequence - acknowledged < end.num_descriptors &&
                                     *position + bound - *Descriptor(end, acknowledged) <= capacity);
  return has_room ? end.frames + *position % capacity : nullptr;
}

uint8_t* WriteSectionHead(uint8_t* at, uint16_t kind, uint64_t bytes) {
  const SectionHead head{kind, 0, static_cast<uint32_t>(bytes)};
  std::memcpy(at, &head, sizeof(head));
  return at + kSectionBytes;
}

void Send(const End& end, uint8_t* frame, uint8_t* stop, uint64_t position, uint64_t step, uint16_t num_sections,
          uint64_t roster_sequence) {
  State& state = *end.state;
  const uint64_t length = stop + kTrailerBytes - frame;
  const Header header{kMagic, kVersion,       static_cast<uint32_t>(length),      num_sections,
                      0,      end.instance,   static_cast<uint32_t>(end.replica), 0,
                      step,   state.sequence, Nanoseconds(CLOCK_REALTIME),        roster_sequence};
  std::memcpy(frame, &header, sizeof(header));
  const uint64_t checksum = Xxh3(frame, length - kTrailerBytes);
  std::memcpy(stop, &checksum, sizeof(checksum));
  uint64_t* descriptor = Descriptor(end, state.sequence);
  descriptor[0] = position;
  descriptor[1] = length;
  state.head = position + (length + 7) / 8 * 8;
  state.bytes_sent += length;
  ++state.num_sent;
  Publish(end.words + kPublished, ++state.sequence, end.words + kReaderWaits);
}

void Acknowledge(const End& end) {
  uint64_t* acknowledged = end.words + kAcknowledged;
  if (*acknowledged != end.state->sequence) {
    Publish(acknowledged, end.state->sequence, end.words + kWriterWaits);
  }
}

Outcome FindFrame(const End& end, WholeFrame* found) {
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
  return IsWhole(end, frame, length, found) ? Outcome::kRead : Outcome::kNoFastPath;
}

uint64_t RosterPlaceBytes(const End& end) { return sizeof(RosterHead) + (end.roster_bytes + 7) / 8 * 8; }

uint8_t* BeginRoster(const End& end, uint8_t* rosters) {
  const uint64_t acknowledged = Load(end.words + kAcknowledged);
  uint8_t* oldest = nullptr;
  uint64_t least_age = UINT64_MAX;
  for (int index = 0; index < 2; ++index) {
    uint8_t* place = rosters + index * RosterPlaceBytes(end);
    RosterHead head;
    std::memcpy(&head, place, sizeof(head));
    // the newest of those before the first frame that is not acknowledged is needed when this process dies
    const uint64_t age = head.bytes && head.sequence < acknowledged ? head.sequence + 1 : 0;
    if (!oldest || age < least_age) {
      oldest = place;
      least_age = age;
    }
  }
  const uint64_t none = 0;  // of no length until it is whole
  std::memcpy(oldest + offsetof(RosterHead, bytes), &none, sizeof(none));
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  return oldest + sizeof(RosterHead);
}

void FinishRoster(uint8_t* text, uint64_t bytes, uint64_t sequence) {
  const RosterHead head{sequence, bytes, Xxh3(text, bytes) ^ sequence, 0};
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  std::memcpy(text - sizeof(RosterHead), &head, sizeof(head));
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
