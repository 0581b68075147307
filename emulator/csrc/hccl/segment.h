// SPDX-License-Identifier: Apache-2.0
// The shared memory of one communicator: a block for each rank (who it is, what it is doing, its slots) and a
// channel for each ordered pair of ranks. Everything in it is plain data and atomics; a process may die between
// any two stores.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "hccl/launches.h"
#include "races/exchange.h"

namespace emu::hccl {

constexpr int kMaxRanks = 64;
constexpr size_t kSlotBytes = 128 * 1024;   // a rank's part of one round of a collective
constexpr size_t kPacketBytes = 32 * 1024;  // a part of a point-to-point message
constexpr size_t kSiteBytes = 768;
constexpr size_t kNoteBytes = 1024;
constexpr size_t kFailureBytes = 8192;

static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<uint64_t>::is_always_lock_free);

// A collective call as the other ranks compare it.
struct Post {
  int32_t operation;
  int32_t type;
  int32_t reduce;
  int32_t root;
  uint64_t count;
  uint64_t send_counts[kMaxRanks];
  uint64_t recv_counts[kMaxRanks];
  char site[kSiteBytes];
  races::Marks known;  // filled in when the call runs
};

// A process: its number can come again after its end, its start time makes it unique.
struct ProcessId {
  int32_t pid = 0;
  uint64_t start_time = 0;
};

enum class Presence : uint32_t { kAbsent, kAttaching, kAttached, kLeft };

struct RankBlock {
  std::atomic<Presence> presence;
  ProcessId process;

  // Collectives: counts that only grow. Post n lies in posts[n % 2], round n in slots[n % 2].
  std::atomic<uint64_t> posted;
  std::atomic<uint64_t> written;
  std::atomic<uint64_t> consumed;
  Post posts[2];
  Launch launches[kMostLaunches];  // launch n lies in launches[n % kMostLaunches]

  // What the rank is doing, for the messages of others: note n lies in notes[n % 2].
  std::atomic<uint64_t> noted;
  std::atomic<uint32_t> in_call;
  char notes[2][kNoteBytes];

  // Its present wait: the ranks it waits for, a number for the wait, and how often it has looked in vain.
  std::atomic<uint64_t> waits_for;
  std::atomic<uint64_t> wait_number;
  std::atomic<uint64_t> looks;

  // Set once: why the communicator cannot be used any more.
  std::atomic<uint32_t> failed;  // 0, or 1 + kind of finding
  char failure[kFailureBytes];

  alignas(64) char slots[2][kSlotBytes];
};

// Messages from one rank to another, in order. A message's packet n lies in packets[n % 2].
struct Channel {
  std::atomic<uint64_t> sent;      // packets, by the sender
  std::atomic<uint64_t> received;  // packets, by the receiver
  uint64_t count;
  int32_t type;
  char note[kNoteBytes];
  races::Marks known;
  alignas(64) char packets[2][kPacketBytes];
};

struct Header {
  std::atomic<uint64_t> ready;  // kReady once the rest is set
  uint32_t num_ranks;
  std::atomic<uint32_t> num_failed;
  // Rung after every change that somebody may wait for. Futex word.
  std::atomic<uint32_t> bell;
  std::atomic<uint32_t> sleepers;
};

// What GetRootInfo hands out: enough to find the segment, and to know that its creator still lives.
struct SegmentName {
  char text[96];  // "/ascend-hccl.<pid namespace>.<pid>.<start time>.<unique>"
  ProcessId creator;
};

ProcessId ThisProcess();
// False for a process that has ended, reaped or not.
bool IsAlive(const ProcessId& process);
SegmentName NewSegmentName();
// The name of a segment that `creator` makes; `unique` tells it from its others.
SegmentName NameSegment(const ProcessId& creator, uint64_t unique);
// Removes segments of processes that were killed between creating and unlinking one.
void RemoveOrphans();

// A mapping of the segment. Create and Open throw Error.
class Segment {
 public:
  // Created 0600; fails if it exists.
  static Segment Create(const std::string& name, int num_ranks);
  // False while it does not exist or is not ready.
  static bool TryOpen(const std::string& name, Segment* segment);

  Segment() = default;
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  static void Unlink(const std::string& name);  // harmless when it is gone
  Header& header() const { return *static_cast<Header*>(base_); }
  RankBlock& rank(int rank) const;
  Channel& channel(int source, int destination) const;

  // Ring after a change; Listen before looking, Sleep with what Listen returned: it returns at the next ring, or
  // at once if there was one since, or after `milliseconds`.
  void Ring() const;
  uint32_t Listen() const;
  void Sleep(uint32_t heard, int milliseconds) const;

 private:
  Segment(void* base, size_t bytes);

  void* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace emu::hccl
