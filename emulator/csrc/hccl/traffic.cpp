// SPDX-License-Identifier: Apache-2.0
#include "hccl/traffic.h"

#include <array>
#include <atomic>
#include <cstring>

namespace emu::hccl {
namespace {

constexpr size_t kNumOperations = static_cast<size_t>(Operation::kMoeCombine) + 1;

struct Counter {
  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> bytes{0};
};

std::array<Counter, kNumOperations> counters;

}  // namespace

void CountTraffic(Operation operation, uint64_t bytes) {
  Counter& counter = counters[static_cast<size_t>(operation)];
  counter.calls.fetch_add(1, std::memory_order_relaxed);
  counter.bytes.fetch_add(bytes, std::memory_order_relaxed);
}

}  // namespace emu::hccl

// Returns how often this process has called the operation of a name, "HcclAllReduce", on any communicator, and
// writes how many bytes of its own buffers those calls read. 0 for a name that no operation has.
extern "C" uint64_t EmulatorTraffic(const char* name, uint64_t* bytes) {
  for (size_t i = 0; i < emu::hccl::kNumOperations; ++i) {
    if (std::strcmp(emu::hccl::NameOf(static_cast<emu::hccl::Operation>(i)), name) == 0) {
      *bytes = emu::hccl::counters[i].bytes;
      return emu::hccl::counters[i].calls;
    }
  }
  *bytes = 0;
  return 0;
}
