// SPDX-License-Identifier: Apache-2.0
// In which order ranks launch the collectives of several communicators. A device runs those of two communicators
// at once only while it has room for both, so that ranks which launch them in different orders may wait for each
// other for ever; on one stream they do.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

namespace emu::hccl {

class Communicator;

constexpr size_t kLaunchBytes = 512;
constexpr size_t kMostLaunches = 256;  // a rank that is further ahead of another is not compared with it
constexpr size_t kMostOthers = 24;     // communicators of a process; those beyond are not compared

// How many collectives a rank had launched on another communicator.
struct LaunchedThere {
  uint64_t communicator;  // the same number in all its ranks
  uint64_t count;
};

// A rank's n-th collective of a communicator, as the other ranks compare it.
struct Launch {
  std::atomic<uint64_t> number;  // n, from 1; 0 while the rest is written
  uint64_t num_others;
  LaunchedThere others[kMostOthers];
  char call[kLaunchBytes];  // "HcclAllReduce(count 6, fp32, sum) at file:line"
};

// A communicator that this process has joined, until it is gone.
void Join(const Communicator& communicator);
void Leave(const Communicator& communicator);

// Publishes that this rank launches its next collective, and reports another order than another rank's, once for
// two communicators. Thread-safe; in the order of launching. `call` as in Launch.
void PublishLaunch(const Communicator& communicator, const std::string& call);

}  // namespace emu::hccl
