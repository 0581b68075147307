// SPDX-License-Identifier: Apache-2.0
// Devices, contexts, peers. Prototypes: torch_npu csrc/core/npu/NPUFunctions.cpp, NPUPeerToPeerAccess.cpp,
// interface/AclInterface.cpp (BSD-3).
#include "core/device.h"

#include <unistd.h>

#include <array>

#include "acl/types.h"
#include "core/failure.h"
#include "core/settings.h"

namespace {

constexpr int kMaxDevices = 16;

// A context is its device: each has one, the primary. Only its address tells anything.
void* ContextOf(int device) {
  static std::array<char, kMaxDevices> contexts;
  return &contexts.at(device);
}

}  // namespace

EMU_API int aclrtGetDeviceCount(uint32_t* count) {
  *count = emu::GetSettings().num_devices;  // a forked child may ask, too
  return emu::kSuccess;
}

EMU_API int aclrtSetDevice(int32_t device) {
  return emu::Guarded("aclrtSetDevice", [&] { emu::SetCurrentDevice(device); });
}

// Asked to find out whether there is one, so that having none leaves no message behind.
EMU_API int aclrtGetDevice(int32_t* device) {
  if (!emu::HasCurrentDevice()) return emu::kNoContext;
  *device = emu::CurrentDevice();
  return emu::kSuccess;
}

EMU_API int aclrtResetDevice(int32_t device) {
  return emu::Guarded("aclrtResetDevice", [&] { emu::ResetDevice(device); });
}

EMU_API int aclrtGetCurrentContext(void** context) {
  return emu::Guarded("aclrtGetCurrentContext", [&] { *context = ContextOf(emu::CurrentDevice()); });
}

EMU_API int aclrtSetCurrentContext(void* context) {
  return emu::Guarded("aclrtSetCurrentContext", [&] {
    for (int i = 0; i < emu::GetSettings().num_devices; ++i) {
      if (ContextOf(i) == context) return emu::SetCurrentDevice(i);
    }
    throw emu::Error(emu::kNoContext, "not a context");
  });
}

EMU_API int aclrtGetPrimaryCtxState(int32_t device, uint32_t* flags, int32_t* active) {
  return emu::Guarded("aclrtGetPrimaryCtxState", [&] {
    if (flags != nullptr) *flags = 0;
    if (active != nullptr) *active = emu::DeviceActive(device) ? 1 : 0;
  });
}

EMU_API int aclrtDeviceCanAccessPeer(int32_t* can, int32_t device, int32_t peer) {
  return emu::Guarded("aclrtDeviceCanAccessPeer", [&] {
    emu::CheckDevice(device);
    emu::CheckDevice(peer);
    *can = device != peer ? 1 : 0;
  });
}

EMU_API int aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
  return emu::Guarded("aclrtDeviceEnablePeerAccess", [&] { emu::CheckDevice(peer); });
}

EMU_API int aclrtDeviceGetBareTgid(int32_t* pid) {
  *pid = getpid();
  return emu::kSuccess;
}

EMU_API int aclrtGetLogicDevIdByUserDevId(int32_t device, int32_t* logical) {
  *logical = device;
  return emu::kSuccess;
}

EMU_API int aclrtSynchronizeDevice() {
  return emu::Guarded("aclrtSynchronizeDevice", [&] { emu::SynchronizeDevice(emu::CurrentDevice(), -1); });
}

EMU_API int aclrtSynchronizeDeviceWithTimeout(int32_t timeout_ms) {
  return emu::Guarded("aclrtSynchronizeDeviceWithTimeout",
                      [&] { emu::SynchronizeDevice(emu::CurrentDevice(), timeout_ms); });
}
