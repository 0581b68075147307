// SPDX-License-Identifier: Apache-2.0
// Types and values of the exported C functions, declared here from how torch_npu calls them (BSD-3 sources) and
// from the public API documentation.
#pragma once

#include <cstddef>
#include <cstdint>

#define EMU_API extern "C" __attribute__((visibility("default")))

namespace emu::acl {

// aclrtMemcpyKind (API documentation)
constexpr int kHostToHost = 0;
constexpr int kHostToDevice = 1;
constexpr int kDeviceToHost = 2;
constexpr int kDeviceToDevice = 3;

// torch_npu csrc/core/npu/interface/AclInterface.h
constexpr int kStreamComplete = 0;
constexpr int kStreamNotReady = 1;
constexpr int kEventNotReady = 0;
constexpr int kEventComplete = 1;
constexpr int kWaitComplete = 0;

// aclrtMemLocationType (API documentation)
constexpr int kLocationHost = 0;
constexpr int kLocationDevice = 1;
constexpr int kLocationUnregistered = 2;

// aclmdlRICaptureStatus (asserted in torch_npu csrc/core/npu/NPUGraphsUtils.h) and aclmdlRICaptureMode
constexpr int kCaptureNone = 0;
constexpr int kCaptureActive = 1;
constexpr int kCaptureInvalidated = 2;
constexpr int kCaptureGlobal = 0;
constexpr int kCaptureThreadLocal = 1;
constexpr int kCaptureRelaxed = 2;

struct Location {
  uint32_t id;
  int32_t type;
};

// Fields in the order of torch_npu's initialiser (AclInterface.cpp, AclrtMallocPhysical).
struct PhysicalProperties {
  int32_t handle_type;
  int32_t allocation_type;
  int32_t attribute;
  Location location;
  uint64_t reserve;
};

}  // namespace emu::acl
