// SPDX-License-Identifier: Apache-2.0
// Streams. Prototypes: torch_npu csrc/core/npu/NPUStream.cpp, interface/AclInterface.cpp (BSD-3).
#include "core/stream.h"

#include "acl/types.h"
#include "core/device.h"
#include "core/failure.h"
#include "core/graph.h"
#include "memory/memory.h"
#include "races/checker.h"

namespace {

// Complete work that the host has asked for and been told of is ordered before it.
bool QueryStream(emu::Stream& stream) {
  emu::ForbidCaptured(stream, "querying the stream");
  emu::ThrowIfFailed();
  emu::races::Clock clock;
  {
    const std::lock_guard<std::mutex> lock(emu::IssueLock());
    if (stream.finished() < stream.pushed()) return false;
    clock = emu::races::ProcessChecker().ClockOf(stream.id());
  }
  emu::TellHostSaw(clock);
  return true;
}

}  // namespace

EMU_API int aclrtCreateStream(void** stream) {
  return emu::Guarded("aclrtCreateStream", [&] { *stream = emu::CreateStream(emu::CurrentDevice()); });
}

EMU_API int aclrtCreateStreamWithConfig(void** stream, uint32_t, uint32_t) {
  return emu::Guarded("aclrtCreateStreamWithConfig", [&] { *stream = emu::CreateStream(emu::CurrentDevice()); });
}

EMU_API int aclrtDestroyStream(void* stream) {
  return emu::Guarded("aclrtDestroyStream", [&] { emu::DestroyStream(stream); });
}

EMU_API int aclrtDestroyStreamForce(void* stream) {
  return emu::Guarded("aclrtDestroyStreamForce", [&] { emu::DestroyStream(stream); });
}

EMU_API int aclrtSynchronizeStream(void* stream) {
  return emu::Guarded("aclrtSynchronizeStream", [&] { emu::Synchronize(emu::StreamOf(stream)); });
}

EMU_API int aclrtSynchronizeStreamWithTimeout(void* stream, int32_t timeout_ms) {
  return emu::Guarded("aclrtSynchronizeStreamWithTimeout",
                      [&] { emu::Synchronize(emu::StreamOf(stream), timeout_ms); });
}

EMU_API int aclrtStreamQuery(void* stream, int* status) {
  return emu::Guarded("aclrtStreamQuery", [&] {
    *status = QueryStream(emu::StreamOf(stream)) ? emu::acl::kStreamComplete : emu::acl::kStreamNotReady;
  });
}

EMU_API int aclrtStreamGetId(void* stream, int32_t* id) {
  return emu::Guarded("aclrtStreamGetId", [&] { *id = static_cast<int32_t>(emu::StreamOf(stream).id()); });
}

// A hint to load memory into the cache: nothing to do but to check it.
EMU_API int aclrtCmoAsync(void* source, size_t bytes, int, void* stream) {
  return emu::Guarded("aclrtCmoAsync", [&] {
    emu::CheckDeviceRange(emu::RangeOf(source, bytes), "prefetched memory");
    emu::StreamOf(stream);
  });
}

// Settings without meaning here.
EMU_API int aclrtSetStreamFailureMode(void*, uint64_t) { return emu::kSuccess; }
EMU_API int aclrtSetStreamOverflowSwitch(void*, uint32_t) { return emu::kSuccess; }
EMU_API int aclrtSetStreamAttribute(void*, int, const void*) { return emu::kSuccess; }

EMU_API int aclrtGetStreamOverflowSwitch(void*, uint32_t* flag) {
  *flag = 0;
  return emu::kSuccess;
}
