// SPDX-License-Identifier: Apache-2.0
// How launch.cpp starts a kernel: on a stream of the NPU, or on the CPU through the emulation in host/, at once or
// on a stream of the emulated NPU. What each launch.cpp exports is in launches.h.
#pragma once

#include "tiling.h"

#ifdef ASCEND_EXT_HOST
#include "host/launch.h"
#define ASCEND_EXT_LAUNCH(kernel, num_cores, stream, extents, ...) \
  ::ascendc_host::LaunchOn(stream, #kernel, num_cores, extents, [=] { kernel(__VA_ARGS__); })
namespace ascend_ext {
using Extents = std::vector<ascendc_host::GmExtent>;
}
#else
#include <initializer_list>
#define ASCEND_EXT_LAUNCH(kernel, num_cores, stream, extents, ...) \
  ((void)(extents), kernel<<<num_cores, nullptr, stream>>>(__VA_ARGS__), 0)
namespace ascend_ext {
struct GmExtent {
  const void* address;
  uint64_t bytes;
  bool writable;
};
using Extents = std::initializer_list<GmExtent>;  // checked on the host only
}  // namespace ascend_ext
#endif

namespace ascend_ext {

// Kernels take every address as GM_ADDR, inputs too.
inline uint8_t* Address(const void* pointer) { return const_cast<uint8_t*>(static_cast<const uint8_t*>(pointer)); }

}  // namespace ascend_ext
