// SPDX-License-Identifier: Apache-2.0
// Memory. Prototypes: torch_npu csrc/core/npu/NPUCachingAllocator.cpp, CachingHostAllocator.cpp,
// interface/AclInterface.cpp (BSD-3).
#include "memory/memory.h"

#include "acl/types.h"
#include "core/device.h"
#include "core/failure.h"
#include "core/settings.h"
#include "races/host_guard.h"

namespace {

// Copies may still be under way: they finish, and nothing guards the memory any more.
void DropHost(void* pointer) {
  for (int i = 0; i < emu::GetSettings().num_devices; ++i) emu::DrainDevice(i);
  const emu::Range range = emu::PinnedRange(pointer);
  const std::lock_guard<std::mutex> lock(emu::IssueLock());
  emu::races::DropGuards(range);
  emu::races::ProcessChecker().Forget(range);
}

}  // namespace

EMU_API int aclrtMalloc(void** pointer, size_t bytes, int) {
  return emu::Guarded("aclrtMalloc", [&] {
    emu::ThrowIfFailed();
    *pointer = emu::AllocateDevice(emu::CurrentDevice(), bytes);
  });
}

EMU_API int aclrtMallocAlign32(void** pointer, size_t bytes, int) {
  return emu::Guarded("aclrtMallocAlign32", [&] {
    emu::ThrowIfFailed();
    *pointer = emu::AllocateDevice(emu::CurrentDevice(), bytes);
  });
}

EMU_API int aclrtFree(void* pointer) {
  return emu::Guarded("aclrtFree", [&] { emu::FreeDevice(pointer); });
}

EMU_API int aclrtGetMemInfo(int, size_t* free_bytes, size_t* total_bytes) {
  return emu::Guarded("aclrtGetMemInfo", [&] { emu::MemoryInfo(emu::CurrentDevice(), free_bytes, total_bytes); });
}

EMU_API int aclrtReserveMemAddress(void** address, size_t bytes, size_t, void*, uint64_t) {
  return emu::Guarded("aclrtReserveMemAddress", [&] { *address = emu::ReserveAddress(bytes); });
}

EMU_API int aclrtReleaseMemAddress(void* address) {
  return emu::Guarded("aclrtReleaseMemAddress", [&] { emu::ReleaseAddress(address); });
}

EMU_API int aclrtMallocPhysical(void** handle, size_t bytes, const emu::acl::PhysicalProperties* properties,
                                uint64_t) {
  return emu::Guarded("aclrtMallocPhysical", [&] {
    emu::ThrowIfFailed();
    if (properties->location.type != emu::acl::kLocationDevice) {
      throw emu::Error(emu::kFeatureNotSupported, "not emulated: physical memory of the host");
    }
    *handle = emu::AllocatePhysical(static_cast<int>(properties->location.id), bytes);
  });
}

EMU_API int aclrtFreePhysical(void* handle) {
  return emu::Guarded("aclrtFreePhysical", [&] { emu::FreePhysical(handle); });
}

EMU_API int aclrtMapMem(void* address, size_t bytes, size_t offset, void* handle, uint64_t) {
  return emu::Guarded("aclrtMapMem", [&] {
    if (offset != 0) throw emu::Error(emu::kFeatureNotSupported, "not emulated: mapping at an offset");
    emu::MapPhysical(address, bytes, handle);
  });
}

EMU_API int aclrtUnmapMem(void* address) {
  return emu::Guarded("aclrtUnmapMem", [&] { emu::UnmapPhysical(address); });
}

EMU_API int aclrtMallocHost(void** pointer, size_t bytes) {
  return emu::Guarded("aclrtMallocHost", [&] { *pointer = emu::AllocatePinned(bytes); });
}

EMU_API int aclrtMallocHostWithCfg(void** pointer, uint64_t bytes, const void*) {
  return emu::Guarded("aclrtMallocHostWithCfg", [&] { *pointer = emu::AllocatePinned(bytes); });
}

EMU_API int aclrtFreeHost(void* pointer) {
  return emu::Guarded("aclrtFreeHost", [&] {
    DropHost(pointer);
    emu::FreePinned(pointer);
  });
}

EMU_API int aclrtHostRegister(void* pointer, uint64_t bytes, int, void** device_pointer) {
  return emu::Guarded("aclrtHostRegister", [&] {
    emu::RegisterHost(pointer, bytes);
    *device_pointer = pointer;
  });
}

EMU_API int aclrtHostRegisterV2(void* pointer, uint64_t bytes, uint32_t) {
  return emu::Guarded("aclrtHostRegisterV2", [&] { emu::RegisterHost(pointer, bytes); });
}

EMU_API int aclrtHostUnregister(void* pointer) {
  return emu::Guarded("aclrtHostUnregister", [&] {
    DropHost(pointer);
    emu::UnregisterHost(pointer);
  });
}

// The first field of the attributes is the location.
EMU_API int aclrtPointerGetAttributes(const void* pointer, emu::acl::Location* location) {
  return emu::Guarded("aclrtPointerGetAttributes", [&] {
    const int device = emu::DeviceOfPointer(pointer);
    if (device >= 0) {
      *location = {static_cast<uint32_t>(device), emu::acl::kLocationDevice};
    } else {
      *location = {0, emu::IsPageLocked(pointer) ? emu::acl::kLocationHost : emu::acl::kLocationUnregistered};
    }
  });
}
