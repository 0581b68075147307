// SPDX-License-Identifier: Apache-2.0
// How the ranks of a communicator come together.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/failure.h"
#include "core/settings.h"
#include "hccl/communicator.h"

namespace emu::hccl {
namespace {

using SteadyClock = std::chrono::steady_clock;

// A segment whose ranks never all came keeps its name, so that a late rank finds the reason in it; it goes with
// the process that created it.
class FailedNames {
 public:
  static FailedNames& Get() {
    static FailedNames names;
    return names;
  }
  void Add(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    names_.push_back(name);
  }
  ~FailedNames() {
    for (const std::string& name : names_) {
      Segment::Unlink(name);
    }
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> names_;
};

Segment Open(const SegmentName& name, int rank, const std::string& shown) {
  const auto deadline = SteadyClock::now() + std::chrono::duration<double>(GetSettings().hccl_timeout_s);
  const std::string where = "HCCL communicator " + shown + ", joined as rank " + std::to_string(rank) + ": ";
  const std::string root = "rank 0 (pid " + std::to_string(name.creator.pid) + ")";
  for (int sleep_ms = 1;; sleep_ms = std::min(2 * sleep_ms, 20)) {
    Segment segment;
    if (Segment::TryOpen(name.text, &segment)) {
      return segment;
    }
    std::string problem;
    if (!IsAlive(name.creator)) {
      problem = where + root + " is gone: its process ended while the communicator was being created";
    } else if (SteadyClock::now() > deadline) {
      problem = where + root + " has not created it within the deadline";
    }
    if (!problem.empty()) {
      races::ReportFinding(races::Kind::kSilentPeer, problem);
      throw Error(kDeviceError, problem);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(sleep_ms));
  }
}

}  // namespace

std::shared_ptr<Communicator> Communicator::Create(const SegmentName& name, int num_ranks, int rank,
                                                   const std::string& shown) {
  if (num_ranks < 1 || num_ranks > kMaxRanks || rank < 0 || rank >= num_ranks) {
    throw Error(kInvalidParam, "HCCL: rank " + std::to_string(rank) + " of " + std::to_string(num_ranks) +
                                   "; the emulator has 1 to " + std::to_string(kMaxRanks) + " ranks");
  }
  Segment segment = rank == 0 ? Segment::Create(name.text, num_ranks) : Open(name, rank, shown);
  const int shared_ranks = static_cast<int>(segment.header().num_ranks);
  if (shared_ranks != num_ranks) {
    const std::string problem = "HCCL communicator " + shown + ": rank " + std::to_string(rank) + " joins with " +
                                std::to_string(num_ranks) + " ranks, rank 0 with " + std::to_string(shared_ranks);
    races::ReportFinding(races::Kind::kMismatch, problem);
    throw Error(kInvalidParam, problem);
  }
  std::shared_ptr<Communicator> communicator(
      new Communicator(std::move(segment), name.text, num_ranks, rank, shown));
  try {
    communicator->Attach();
  } catch (...) {
    if (rank == 0) {
      FailedNames::Get().Add(name.text);
    }
    throw;
  }
  Segment::Unlink(name.text);
  return communicator;
}

void Communicator::Attach() {
  RankBlock& block = mine();
  Presence absent = Presence::kAbsent;
  if (!block.presence.compare_exchange_strong(absent, Presence::kAttaching)) {
    throw Error(kInvalidParam, "HCCL communicator " + name_ + ": " + DescribeRank(rank_) + " has joined already");
  }
  block.process = ThisProcess();
  block.presence.store(Presence::kAttached);
  segment_.Ring();
  Note("joining the communicator");
  WaitForAll(&RankBlock::presence, Presence::kAttached);
  ThrowIfFailed();  // this was the late rank
  mine().in_call.store(0);
  Join(*this);
}

}  // namespace emu::hccl
