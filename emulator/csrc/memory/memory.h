// SPDX-License-Identifier: Apache-2.0
// Device memory (live ranges on the host) and pinned host memory (mapped twice: the program's view, which the race
// checker may close, and the emulator's own, which stays open).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "memory/access.h"

namespace emu {

std::string Hex(uintptr_t address);  // as messages show it

void* AllocateDevice(int device, size_t bytes);  // throws Error(kMemoryAllocation) beyond the device's memory
void FreeDevice(void* pointer);                  // drains the device's streams first
void MemoryInfo(int device, size_t* free_bytes, size_t* total_bytes);

// Throws Error unless [begin, end) lies in live device memory; a range may span adjacent mapped pieces
// (expandable segments). `what` names the operand in the message.
void CheckDeviceRange(Range range, const std::string& what);
// The live device memory from `begin` to where it ends; empty when there is none.
Range LiveDeviceRange(uintptr_t begin);
bool IsDevicePointer(const void* pointer);
int DeviceOfPointer(const void* pointer);  // -1 for host memory

// Expandable segments: address space, physical pieces, mappings.
void* ReserveAddress(size_t bytes);
void ReleaseAddress(void* pointer);
void* AllocatePhysical(int device, size_t bytes);
void FreePhysical(void* handle);
void MapPhysical(void* address, size_t bytes, void* handle);
void UnmapPhysical(void* address);

void* AllocatePinned(size_t bytes);
void FreePinned(void* pointer);
bool IsPinned(const void* pointer);
Range PinnedRange(const void* pointer);  // the allocation that holds it; empty for other memory
// The emulator's own view of pinned memory at the program's address `pointer`; other pointers come back unchanged.
void* EmulatorView(void* pointer);

// Host memory of the program's own that it registered. Shared memory gets a second view like pinned memory;
// private memory is written past the protection of its pages (CopyHost), which need not be whole: see
// GuardedRange.
void RegisterHost(void* pointer, size_t bytes);
// What of [begin, end) may be guarded: whole pages in private memory that was registered, for others' data lies on
// the rest of its first and last page.
Range GuardedRange(Range range);
// memmove for copies on a stream's thread, whatever the checker has closed.
void CopyHost(void* target, const void* source, size_t bytes);
void FillHost(void* target, int value, size_t bytes);
void UnregisterHost(void* pointer);
bool IsPageLocked(const void* pointer);  // pinned or registered

}  // namespace emu
