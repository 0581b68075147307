// SPDX-License-Identifier: Apache-2.0
// What the binding calls of torch_npu, declared here: torch_npu's headers include CANN's, and the emulated NPU has
// none. From torch_npu 2.13.0 (BSD-3), csrc/core/npu/NPUStream.h and csrc/framework/OpCommand.h; unchanged
// since 2.9. That aclGetDeviceCapability's 1 asks for vector cores: public API documentation.
#pragma once

#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <string>

extern "C" int aclGetDeviceCapability(uint32_t device, int which, int64_t* value);

namespace c10_npu {

class NPUStream {
 public:
  ~NPUStream() {}  // as theirs: decides how one is returned
  // The aclrtStream. `drain`: only after torch_npu's task queue has launched what it holds.
  void* stream(bool drain) const;

 private:
  c10::Stream stream_;
};

NPUStream getCurrentNPUStream(c10::DeviceIndex device);

}  // namespace c10_npu

namespace at_npu::native {

class OpCommand {
 public:
  // Calls `launch`, which returns 0 when all is well, here or, with the task queue on, from its thread, in order.
  static void RunOpApiV2(const std::string& name, const std::function<int()>& launch, bool synchronise = false);
};

}  // namespace at_npu::native
