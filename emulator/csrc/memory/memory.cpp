// SPDX-License-Identifier: Apache-2.0
// Device memory: live ranges, the devices' limits, expandable segments.
#include "memory/memory.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "core/device.h"
#include "core/failure.h"
#include "core/settings.h"
#include "core/stream.h"
#include "core/word.h"
#include "memory/pages.h"
#include "races/checker.h"

namespace emu {
namespace {

// Physical memory of a device. It has an address only while it is mapped.
struct Physical {
  int device = 0;
  size_t bytes = 0;
  uintptr_t mapped = 0;
};

struct Live {
  uintptr_t end = 0;
  int device = 0;
  size_t mapped = 0;             // of an allocation: pages to unmap
  Physical* physical = nullptr;  // of an expandable segment's piece
};

struct DeviceMemory {
  std::shared_mutex mutex;
  std::map<uintptr_t, Live> live;  // by first byte
  std::unordered_map<void*, size_t> reserved;
  std::unordered_map<void*, std::unique_ptr<Physical>> physical;
  std::map<int, size_t> used;
};

DeviceMemory& Memory() {
  static auto* memory = new DeviceMemory;
  return *memory;
}

size_t Total() { return static_cast<size_t>(GetSettings().memory_mib) << 20; }

// Under the lock.
void Take(DeviceMemory& memory, int device, size_t bytes) {
  size_t& used = memory.used[device];
  if (bytes > Total() - used) {
    throw Error(kMemoryAllocation,
                "EL0004: Failed to allocate " + std::to_string(bytes) + " bytes on npu:" + std::to_string(device) +
                    ": " + std::to_string(Total() - used) + " of " + std::to_string(Total()) + " are free");
  }
  used += bytes;
}

// The live piece that begins at `begin`, once what it was used for is over: everything issued on its device has
// run, and its bytes are forgotten. Throws Error with `problem` when there is none of this kind.
Live Retire(uintptr_t begin, bool of_segment, const std::string& problem) {
  DeviceMemory& memory = Memory();
  Live piece;
  {
    const std::shared_lock<std::shared_mutex> lock(memory.mutex);
    const auto found = memory.live.find(begin);
    if (found == memory.live.end() || (found->second.physical != nullptr) != of_segment) {
      throw Error(kInvalidParam, problem);
    }
    piece = found->second;
  }
  DrainDevice(piece.device);
  const Range range{begin, piece.end};
  ForgetWords(range);
  const std::lock_guard<std::mutex> lock(IssueLock());
  races::ProcessChecker().Forget(range);
  return piece;
}

}  // namespace

std::string Hex(uintptr_t address) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%zx", static_cast<size_t>(address));
  return text;
}

void* AllocateDevice(int device, size_t bytes) {
  const size_t whole = WholePages(std::max<size_t>(bytes, 1));
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  Take(memory, device, bytes);
  const size_t guarded = whole + PageSize();  // one closed page behind catches what runs over
  auto* begin = static_cast<char*>(MapNothing(nullptr, guarded));
  MapFresh(begin, whole);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  memory.live[address] = {address + bytes, device, guarded, nullptr};
  return begin;
}

void FreeDevice(void* pointer) {
  DeviceMemory& memory = Memory();
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  const Live freed = Retire(begin, false, Hex(begin) + " is not the beginning of a device allocation");
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  memory.live.erase(begin);
  memory.used[freed.device] -= freed.end - begin;
  UnmapPages(pointer, freed.mapped);
}

void MemoryInfo(int device, size_t* free_bytes, size_t* total_bytes) {
  DeviceMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto used = memory.used.find(device);
  *total_bytes = Total();
  *free_bytes = Total() - (used == memory.used.end() ? 0 : used->second);
}

void CheckDeviceRange(Range range, const std::string& what) {
  if (range.Empty()) return;
  DeviceMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  for (uintptr_t at = range.begin; at < range.end;) {
    const auto piece = PieceAt(memory.live, at);
    if (piece == memory.live.end()) {
      throw Error(kInvalidParam, what + " [" + Hex(range.begin) + ", " + Hex(range.end) +
                                     ") is not in live device memory: nothing is allocated at " + Hex(at));
    }
    at = piece->second.end;
  }
}

Range LiveDeviceRange(uintptr_t begin) {
  DeviceMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  Range range{begin, begin};
  for (auto piece = PieceAt(memory.live, begin); piece != memory.live.end();
       piece = PieceAt(memory.live, range.end)) {
    range.end = piece->second.end;
  }
  return range;
}

bool IsDevicePointer(const void* pointer) { return DeviceOfPointer(pointer) >= 0; }

int DeviceOfPointer(const void* pointer) {
  DeviceMemory& memory = Memory();
  const std::shared_lock<std::shared_mutex> lock(memory.mutex);
  const auto piece = PieceAt(memory.live, reinterpret_cast<uintptr_t>(pointer));
  return piece == memory.live.end() ? -1 : piece->second.device;
}

void* ReserveAddress(size_t bytes) {
  void* begin = MapNothing(nullptr, WholePages(bytes));
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  memory.reserved[begin] = WholePages(bytes);
  return begin;
}

void ReleaseAddress(void* pointer) {
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = memory.reserved.find(pointer);
  if (found == memory.reserved.end()) throw Error(kInvalidParam, "the address space was not reserved");
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  const auto piece = memory.live.lower_bound(begin);
  if (piece != memory.live.end() && piece->first < begin + found->second) {
    throw Error(kInvalidParam, "memory is still mapped at " + Hex(piece->first));
  }
  UnmapPages(pointer, found->second);
  memory.reserved.erase(found);
}

void* AllocatePhysical(int device, size_t bytes) {
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  Take(memory, device, bytes);
  auto physical = std::make_unique<Physical>(Physical{device, bytes, 0});
  void* handle = physical.get();
  memory.physical[handle] = std::move(physical);
  return handle;
}

void FreePhysical(void* handle) {
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = memory.physical.find(handle);
  if (found == memory.physical.end()) throw Error(kInvalidParam, "not a live physical memory handle");
  if (found->second->mapped != 0) throw Error(kInvalidParam, "the physical memory is still mapped");
  memory.used[found->second->device] -= found->second->bytes;
  memory.physical.erase(found);
}

void MapPhysical(void* address, size_t bytes, void* handle) {
  DeviceMemory& memory = Memory();
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  const auto found = memory.physical.find(handle);
  if (found == memory.physical.end() || bytes > found->second->bytes) {
    throw Error(kInvalidParam, "not a live physical memory handle of " + std::to_string(bytes) + " bytes");
  }
  if (found->second->mapped != 0) throw Error(kFeatureNotSupported, "not emulated: physical memory mapped twice");
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const auto after = memory.live.upper_bound(begin);
  const auto& live = memory.live;
  const bool taken = PieceAt(live, begin) != live.end() || (after != live.end() && after->first < begin + bytes);
  if (taken) throw Error(kInvalidParam, "memory is already mapped at " + Hex(begin));
  MapFresh(address, WholePages(bytes));
  found->second->mapped = begin;
  memory.live[begin] = {begin + bytes, found->second->device, 0, found->second.get()};
}

void UnmapPhysical(void* address) {
  DeviceMemory& memory = Memory();
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const Live piece = Retire(begin, true, "nothing is mapped at " + Hex(begin));
  const std::unique_lock<std::shared_mutex> lock(memory.mutex);
  memory.live.erase(begin);
  piece.physical->mapped = 0;
  MapNothing(address, WholePages(piece.end - begin));
}

}  // namespace emu
