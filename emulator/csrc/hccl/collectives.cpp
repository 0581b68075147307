// SPDX-License-Identifier: Apache-2.0
// From a collective call to a task: its operands are checked and become accesses.
#include <utility>

#include "core/failure.h"
#include "core/site.h"
#include "hccl/call.h"
#include "hccl/traffic.h"
#include "memory/memory.h"
#include "memory/rows.h"

namespace emu::hccl {
namespace {

// Collects a task's accesses; ranges that continue each other become one.
class Operands {
 public:
  Operands(const char* name, DataType type) : name_(name), bytes_(SizeOf(type)) {}

  void Add(const char* buffer, uint64_t begin, uint64_t count, bool write) {
    if (count == 0) {
      return;
    }
    const uintptr_t address = reinterpret_cast<uintptr_t>(buffer) + begin * bytes_;
    const Range range{address, address + count * bytes_};
    if (!accesses_.empty() && accesses_.back().write == write && accesses_.back().range.end == range.begin) {
      accesses_.back().range.end = range.end;
    } else {
      accesses_.push_back({range, write});
    }
  }
  void Add(const char* buffer, const Parts& parts, bool write) {
    for (size_t rank = 0; rank < parts.counts.size(); ++rank) {
      Add(buffer, parts.begins[rank], parts.counts[rank], write);
    }
  }
  Accesses Checked() && {
    for (const Access& access : accesses_) {
      CheckDeviceRange(access.range, std::string(name_) + (access.write ? "'s receive buffer" : "'s send buffer"));
    }
    return std::move(accesses_);
  }

 private:
  const std::string name_;
  const uint64_t bytes_;
  Accesses accesses_;
};

Accesses AccessesOf(const Call& call, bool is_root) {
  Operands operands(NameOf(call.operation), call.type);
  switch (call.operation) {
    case Operation::kAllReduce:
      operands.Add(call.send, 0, call.count, false);
      operands.Add(call.recv, 0, call.count, true);
      break;
    case Operation::kReduce:
      operands.Add(call.send, 0, call.count, false);
      operands.Add(call.recv, 0, is_root ? call.count : 0, true);
      break;
    case Operation::kBroadcast:
      operands.Add(call.recv, 0, call.count, !is_root);
      break;
    case Operation::kAllGather:
    case Operation::kAllGatherV:
      operands.Add(call.send, 0, call.count, false);
      operands.Add(call.recv, call.recvs, true);
      break;
    case Operation::kReduceScatter:
    case Operation::kReduceScatterV:
    case Operation::kScatter:
      operands.Add(call.send, call.sends, false);
      operands.Add(call.recv, 0, call.count, true);
      break;
    case Operation::kAlltoAll:
    case Operation::kAlltoAllV:
      operands.Add(call.send, call.sends, false);
      operands.Add(call.recv, call.recvs, true);
      break;
    case Operation::kBarrier:
    case Operation::kMoeDispatch:
    case Operation::kMoeCombine:
      break;
  }
  return std::move(operands).Checked();
}

uint64_t NumRead(const Accesses& accesses) {
  uint64_t bytes = 0;
  for (const Access& access : accesses) {
    bytes += access.write ? 0 : access.range.end - access.range.begin;
  }
  return bytes;
}

// Where an operation may work in place: its own part of the other buffer is the same memory.
Range OwnPart(const Call& call, int rank) {
  const uint64_t bytes = SizeOf(call.type);
  const bool receives_parts = call.operation == Operation::kAllGather || call.operation == Operation::kAllGatherV;
  const auto own = static_cast<size_t>(rank);
  if (receives_parts) return RangeOf(call.recv + call.recvs.begins[own] * bytes, call.recvs.counts[own] * bytes);
  const bool sends_parts = call.sends.counts.size() > own && call.recvs.counts.empty();
  if (sends_parts) return RangeOf(call.send + call.sends.begins[own] * bytes, call.sends.counts[own] * bytes);
  const bool exchanges = call.operation == Operation::kAlltoAll || call.operation == Operation::kAlltoAllV;
  return exchanges ? Range{} : RangeOf(call.recv, call.count * bytes);
}

// What is read or written while it is written, the part that is in place apart.
std::vector<Range> TornOf(const Accesses& accesses, Range own) {
  const auto is_own = [own](Range range) { return range.begin == own.begin && range.end == own.end; };
  std::vector<Range> torn;
  for (size_t i = 0; i < accesses.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      Range shared;
      const Access& a = accesses[i];
      const Access& b = accesses[k];
      if ((!a.write && !b.write) || !Meet(a, b, &shared)) continue;
      const bool in_place = a.write != b.write && is_own(shared) && (is_own(a.range) || is_own(b.range));
      if (!in_place) torn.push_back(shared);
    }
  }
  return torn;
}

}  // namespace

void Issue(const std::shared_ptr<Communicator>& communicator, Call call, Stream& stream) {
  if (call.root < 0 || call.root >= communicator->num_ranks()) {
    throw Error(kInvalidParam, std::string(NameOf(call.operation)) + ": root " + std::to_string(call.root) +
                                   " is not one of the communicator's " +
                                   std::to_string(communicator->num_ranks()) + " ranks");
  }
  Task task;
  task.name = NameOf(call.operation);
  task.accesses = AccessesOf(call, communicator->rank() == call.root);
  CountTraffic(call.operation, NumRead(task.accesses));
  task.torn = TornOf(task.accesses, OwnPart(call, communicator->rank()));
  task.site = CurrentSite();
  const Post post = PostOf(call, task.site);
  std::string note = Describe(post, communicator->num_ranks()) + " at " + DescribeSite(task.site);
  Communicator* running = communicator.get();  // the task keeps it
  communicator->IssueCollective(stream, std::move(task), std::move(note), [running, call = std::move(call), post] {
    const Posts posts(*running, post);
    Transfer(*running, call, posts);
  });
}

}  // namespace emu::hccl
