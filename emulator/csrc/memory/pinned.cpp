// SPDX-License-Identifier: Apache-2.0
// Pinned host memory: one memfd for each allocation, mapped twice.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "core/failure.h"
#include "memory/memory.h"
#include "memory/pages.h"

namespace emu {
namespace {

struct Pinned {
  uintptr_t end = 0;         // of the program's view
  char* emulator = nullptr;  // our view; null for private memory that the program registered
  bool registered = false;
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

Range PagesAround(Range range) { return {range.begin & ~(PageSize() - 1), WholePages(range.end)}; }

// A second view of shared pages; null when they are private, or shared in part.
char* SecondView(Range range) {
  const Range pages = PagesAround(range);
  void* view = mremap(reinterpret_cast<void*>(pages.begin), 0, pages.end - pages.begin, MREMAP_MAYMOVE);
  return view == MAP_FAILED ? nullptr : static_cast<char*>(view) + (range.begin - pages.begin);
}

// The process's own memory as a file: reading and writing there is not stopped by closed pages. Some kernels are
// set up to stop it; registered private memory is not guarded there.
struct Own {
  int file = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  bool usable = false;
  Own() {
    void* page = mmap(nullptr, PageSize(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char byte = 1;
    const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(page));
    usable = file >= 0 && pwrite(file, &byte, 1, at) == 1 && pread(file, &byte, 1, at) == 1;
    munmap(page, PageSize());
  }
};

const Own& OwnMemory() {
  static const auto* own = new Own;
  return *own;
}

// Of memory that may be closed while we copy.
bool IsPrivate(const void* pointer) {
  const PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(const_cast<PinnedMemory&>(memory).mutex);
  const auto found = Find(memory, pointer);
  return found != memory.allocations.end() && found->second.emulator == nullptr && OwnMemory().usable;
}

void WriteOwn(void* target, const char* source, size_t bytes) {
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(target));
  if (pwrite(OwnMemory().file, source, bytes, at) != static_cast<ssize_t>(bytes)) {
    throw Error(kDeviceError, "cannot write registered host memory");
  }
}

void Transfer(char* target, const char* source, size_t bytes, bool closed) {
  if (!closed) {
    std::memcpy(target, source, bytes);
    return;
  }
  const auto at = static_cast<off_t>(reinterpret_cast<uintptr_t>(source));
  if (pread(OwnMemory().file, target, bytes, at) != static_cast<ssize_t>(bytes)) {
    throw Error(kDeviceError, "cannot read registered host memory");
  }
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
  memory.allocations[begin] = {begin + whole, emulator, false};
  return program;
}

void FreePinned(void* pointer) {
  PinnedMemory& memory = Memory();
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  Pinned freed;
  {
    const std::unique_lock<std::shared_mutex> lock(memory.mutex);
    const auto found = memory.allocations.find(begin);
    if (found == memory.allocations.end() || found->second.registered) {
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
  return found != memory.allocations.end() && !found->second.registered;
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
  memory.allocations[begin] = {begin + bytes, SecondView({begin, begin + bytes}), true};
}

void UnregisterHost(void* pointer) {
  PinnedMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = memory.allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory.allocations.end()) throw Error(kInvalidParam, "the memory is not registered");
  if (!found->second.registered) return;
  if (found->second.emulator != nullptr) {
    const Range pages = PagesAround({found->first, found->second.end});
    munmap(found->second.emulator - (found->first - pages.begin), pages.end - pages.begin);
  }
  memory.allocations.erase(found);
}

Range GuardedRange(Range range) {
  PinnedMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = Find(memory, reinterpret_cast<void*>(range.begin));
  if (found == memory.allocations.end()) return {};
  if (found->second.emulator != nullptr) return range;
  if (!OwnMemory().usable) return {};
  const uintptr_t first = WholePages(found->first);
  const uintptr_t last = found->second.end & ~(PageSize() - 1);
  return {std::max(range.begin, first), std::min(range.end, last)};
}

void CopyHost(void* target, const void* source, size_t bytes) {
  if (!IsPrivate(target) && !IsPrivate(source)) {
    std::memmove(target, source, bytes);
    return;
  }
  std::vector<char> passing(std::min<size_t>(bytes, 1 << 20));
  for (size_t done = 0; done < bytes; done += passing.size()) {
    const size_t part = std::min(passing.size(), bytes - done);
    Transfer(passing.data(), static_cast<const char*>(source) + done, part, IsPrivate(source));
    if (IsPrivate(target)) {
      WriteOwn(static_cast<char*>(target) + done, passing.data(), part);
    } else {
      std::memcpy(static_cast<char*>(target) + done, passing.data(), part);
    }
  }
}

void FillHost(void* target, int value, size_t bytes) {
  const std::vector<char> filled(IsPrivate(target) ? bytes : 0, static_cast<char>(value));
  if (filled.empty()) {
    std::memset(target, value, bytes);
  } else {
    WriteOwn(target, filled.data(), bytes);
  }
}

}  // namespace emu
