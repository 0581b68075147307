// SPDX-License-Identifier: Apache-2.0
// Pinned host memory: one memfd for each allocation, mapped twice.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "core/failure.h"
#include "memory/memory.h"
#include "memory/pages.h"

namespace emu {
namespace {

struct Pinned {
  uintptr_t end = 0;         // of the program's view
  char* emulator = nullptr;  // our view; null for memory that the program registered
};

struct PinnedMemory {
  std::shared_mutex mutex;
  std::map<uintptr_t, Pinned> allocations;  // by first byte
};

PinnedMemory& Memory() {
  static auto* memory = new PinnedMemory;
  return *memory;
}

// Under the lock: the allocation that holds `pointer`, or end().
auto Find(const PinnedMemory& memory, const void* pointer) {
  return PieceAt(memory.allocations, reinterpret_cast<uintptr_t>(pointer));
}

char* MapShared(int file, size_t bytes) {
  void* view = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (view == MAP_FAILED) throw Error(kMemoryAllocation, "cannot map " + std::to_string(bytes) + " pinned bytes");
  return static_cast<char*>(view);
}

}  // namespace

void* AllocatePinned(size_t bytes) {
  const size_t whole = WholePages(std::max<size_t>(bytes, 1));
  const int file = memfd_create("emulator_pinned", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(whole)) != 0) {
    if (file >= 0) close(file);
    throw Error(kMemoryAllocation, "Failed to allocate " + std::to_string(bytes) + " pinned bytes");
  }
  char* program = MapShared(file, whole);
  char* emulator = MapShared(file, whole);
  close(file);
  PinnedMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto begin = reinterpret_cast<uintptr_t>(program);
  memory.allocations[begin] = {begin + whole, emulator};
  return program;
}

void FreePinned(void* pointer) {
  PinnedMemory& memory = Memory();
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  Pinned freed;
  {
    const std::unique_lock<std::shared_mutex> lock(memory.mutex);
    const auto found = memory.allocations.find(begin);
    if (found == memory.allocations.end() || found->second.emulator == nullptr) {
      throw Error(kInvalidParam, "not the beginning of pinned memory");
    }
    freed = found->second;
    memory.allocations.erase(found);
  }
  munmap(pointer, freed.end - begin);
  munmap(freed.emulator, freed.end - begin);
}

bool IsPinned(const void* pointer) {
  PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = Find(memory, pointer);
  return found != memory.allocations.end() && found->second.emulator != nullptr;
}

bool IsPageLocked(const void* pointer) {
  PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  return Find(memory, pointer) != memory.allocations.end();
}

void* EmulatorView(void* pointer) {
  PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = Find(memory, pointer);
  if (found == memory.allocations.end() || found->second.emulator == nullptr) return pointer;
  return found->second.emulator + (reinterpret_cast<uintptr_t>(pointer) - found->first);
}

Range PinnedRange(const void* pointer) {
  PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = Find(memory, pointer);
  if (found == memory.allocations.end()) return {};
  return {found->first, found->second.end};
}

void RegisterHost(void* pointer, size_t bytes) {
  PinnedMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  if (Find(memory, pointer) != memory.allocations.end()) return;  // pinned memory may be registered, too
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  memory.allocations[begin] = {begin + bytes, nullptr};
}

void UnregisterHost(void* pointer) {
  PinnedMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = memory.allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory.allocations.end()) throw Error(kInvalidParam, "the memory is not registered");
  if (found->second.emulator == nullptr) memory.allocations.erase(found);
}

}  // namespace emu
