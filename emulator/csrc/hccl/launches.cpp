// SPDX-License-Identifier: Apache-2.0
#include "hccl/launches.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "hccl/communicator.h"

namespace emu::hccl {
namespace {

struct Joined {
  std::string name;
  uint64_t num_launched = 0;
};

struct Launches {
  std::mutex mutex;
  std::map<uint64_t, Joined> communicators;
  std::set<std::pair<uint64_t, uint64_t>> reported;
};

Launches& AllLaunches() {
  static auto* launches = new Launches;  // torch_npu's threads still end communicators at exit
  return *launches;
}

// Segments' names are unique, and the same in all ranks.
uint64_t NumberOf(const Communicator& communicator) {
  return std::hash<std::string>()(communicator.segment_name());
}

// Under the lock: publishes the launch.
void Write(const Launches& launches, uint64_t self, uint64_t number, const std::string& call, Launch* launch) {
  launch->number.store(0);
  std::atomic_thread_fence(std::memory_order_release);
  launch->num_others = 0;
  for (const auto& [other, joined] : launches.communicators) {
    if (other == self || launch->num_others == kMostOthers) continue;
    launch->others[launch->num_others++] = {other, joined.num_launched};
  }
  std::strncpy(launch->call, call.c_str(), kLaunchBytes - 1);
  launch->number.store(number);
}

// What another rank has published of the same collective.
struct Theirs {
  uint64_t num_others;
  LaunchedThere others[kMostOthers];
  std::string call;
};

// None while it has not launched it, or has long gone on.
std::optional<Theirs> Read(const Launch& launch, uint64_t number) {
  if (launch.number.load() != number) return std::nullopt;
  Theirs theirs;
  theirs.num_others = std::min<uint64_t>(launch.num_others, kMostOthers);
  std::copy(launch.others, launch.others + kMostOthers, theirs.others);
  theirs.call.assign(launch.call, strnlen(launch.call, kLaunchBytes));
  std::atomic_thread_fence(std::memory_order_acquire);
  if (launch.number.load() != number) return std::nullopt;
  return theirs;
}

std::string Line(const Communicator& communicator, int rank, const std::string& call, uint64_t count,
                 const std::string& other) {
  return "\n  " + communicator.DescribeRank(rank) + " launches " + call + " after " + std::to_string(count) +
         " of " + other;
}

// Under the lock: what there is to report of the two launches of collective `number`; "" if they are in order.
std::string Compare(Launches* launches, const Communicator& communicator, uint64_t number, const Launch& mine,
                    int rank, const Theirs& theirs) {
  const uint64_t self = NumberOf(communicator);
  for (size_t i = 0; i < mine.num_others; ++i) {
    const auto [other, count] = mine.others[i];
    const LaunchedThere* end = theirs.others + theirs.num_others;
    const auto found =
        std::find_if(theirs.others, end, [&](const LaunchedThere& there) { return there.communicator == other; });
    if (found == end || found->count == count) continue;
    if (!launches->reported.insert(std::minmax(self, other)).second) continue;
    const std::string name = "communicator " + launches->communicators.at(other).name;
    return "ranks launch the collectives of two HCCL communicators in different orders, and may wait for each "
           "other for ever on a device: call " +
           std::to_string(number) + " of communicator " + communicator.name() +
           Line(communicator, communicator.rank(), mine.call, count, name) +
           Line(communicator, rank, theirs.call, found->count, name);
  }
  return "";
}

}  // namespace

void Join(const Communicator& communicator) {
  Launches& launches = AllLaunches();
  const std::lock_guard<std::mutex> lock(launches.mutex);
  launches.communicators[NumberOf(communicator)].name = communicator.name();
}

void Leave(const Communicator& communicator) {
  Launches& launches = AllLaunches();
  const std::lock_guard<std::mutex> lock(launches.mutex);
  launches.communicators.erase(NumberOf(communicator));
}

void PublishLaunch(const Communicator& communicator, const std::string& call) {
  if (communicator.num_ranks() == 1) return;
  Launches& launches = AllLaunches();
  std::string report;
  {
    const std::lock_guard<std::mutex> lock(launches.mutex);
    const uint64_t self = NumberOf(communicator);
    const uint64_t number = ++launches.communicators[self].num_launched;
    Launch& mine = communicator.mine().launches[number % kMostLaunches];
    Write(launches, self, number, call, &mine);
    for (int rank = 0; rank < communicator.num_ranks() && report.empty(); ++rank) {
      if (rank == communicator.rank()) continue;
      const auto theirs = Read(communicator.segment().rank(rank).launches[number % kMostLaunches], number);
      if (theirs) report = Compare(&launches, communicator, number, mine, rank, *theirs);
    }
  }
  if (!report.empty()) races::ReportFinding(races::Kind::kMismatch, report);
}

}  // namespace emu::hccl
