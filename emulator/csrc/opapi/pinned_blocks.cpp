// SPDX-License-Identifier: Apache-2.0
// Watches torch's allocator of pinned memory: which block goes back to it while it records the events that it asks
// about before it hands the block out again. Its trace does not tell, so its function to allocate is exchanged in
// its table of virtual functions, in memory.
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <mutex>

#include <ATen/core/CachingHostAllocator.h>

#include "memory/pages.h"
#include "races/blocks.h"

namespace emu::opapi {
namespace {

using Allocate = at::DataPtr (*)(c10::Allocator*,
                                 size_t);  // a member function takes its object like a first argument

constexpr int kAllocate = 2;  // of the table, behind the two destructors: c10/core/Allocator.h

Allocate allocate = nullptr;
std::atomic<c10::DeleterFnPtr> give_back{nullptr};

struct Blocks {
  std::mutex mutex;
  std::map<void*, Range> live;  // by the allocator's own handle
};

Blocks& All() {
  static auto* blocks = new Blocks;  // tensors may go while the process exits
  return *blocks;
}

void GiveBack(void* handle) {
  Range range;
  {
    const std::lock_guard<std::mutex> lock(All().mutex);
    const auto found = All().live.find(handle);
    if (found != All().live.end()) {
      range = found->second;
      All().live.erase(found);
    }
  }
  races::SetBlockBeingFreed(range);
  give_back.load()(handle);
  races::SetBlockBeingFreed({});
}

at::DataPtr WatchedAllocate(c10::Allocator* allocator, size_t bytes) {
  at::DataPtr block = allocate(allocator, bytes);
  if (block.get_context() == nullptr) return block;
  const c10::DeleterFnPtr deleter = block.get_deleter();
  c10::DeleterFnPtr none = nullptr;
  give_back.compare_exchange_strong(none, deleter);
  if (deleter != give_back.load()) return block;
  {
    const std::lock_guard<std::mutex> lock(All().mutex);
    All().live[block.get_context()] = RangeOf(block.get(), bytes);
  }
  static_cast<void>(block.compare_exchange_deleter(deleter, GiveBack));
  return block;
}

}  // namespace
}  // namespace emu::opapi

// Once in a process. 0 when there is no such allocator.
extern "C" uint64_t EmulatorWatchPinnedBlocks() {
  at::HostAllocator* allocator = at::getHostAllocator(at::DeviceType::PrivateUse1);
  if (allocator == nullptr) return 0;
  void** slot = *reinterpret_cast<void***>(allocator) + emu::opapi::kAllocate;
  void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(slot) & ~(emu::PageSize() - 1));
  if (mprotect(page, emu::PageSize(), PROT_READ | PROT_WRITE) != 0) return 0;
  emu::opapi::allocate = reinterpret_cast<emu::opapi::Allocate>(*slot);
  *slot = reinterpret_cast<void*>(emu::opapi::WatchedAllocate);
  return 1;
}
