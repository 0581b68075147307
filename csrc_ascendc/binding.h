// SPDX-License-Identifier: Apache-2.0
// What each operator's binding.cpp shares: checks that raise what vllm_ascend_ext/ops say they raise, and the
// launch on the current stream. The same for the NPU and for the emulated one; only the library of launches
// differs.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <initializer_list>

#include "launches.h"
#include "tiling.h"
#include "torch_npu.h"

namespace ascend_ext {

inline bool IsInteger(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kInt || tensor.scalar_type() == at::kLong;
}

inline void CheckOneDevice(const char* op, const at::Tensor& first, std::initializer_list<at::Tensor> others) {
  for (const at::Tensor& other : others) {
    TORCH_CHECK_VALUE(other.device() == first.device(), op, " takes tensors of one device, not ", first.device(),
                      " and ", other.device());
  }
}

inline void CheckLoad(const char* op, const at::Tensor& load) {
  TORCH_CHECK_TYPE(load.scalar_type() == at::kInt, op,
                   " counts in int32 on an NPU, which has no 64-bit atomic add, "
                   "not in ",
                   load.scalar_type(), ": allocate the load with dtype=torch.int32");
}

// The tiling's refusal of a shape, before anything is launched.
inline void CheckFits(const char* op, TilingError error, const std::string& shape) {
  TORCH_CHECK_VALUE(error == TilingError::kNone, op, ": ", shape, " does not fit in the ", kUnifiedBufferBytes,
                    " bytes of a vector core's unified buffer (tiling error ", static_cast<int32_t>(error),
                    "): use the reference, on the CPU, or split it");
}

inline uint32_t NumVectorCores(c10::DeviceIndex device) {
  static std::array<std::atomic<uint32_t>, 64> known{};
  std::atomic<uint32_t>& cores = known.at(static_cast<size_t>(device));
  if (cores == 0) {
    constexpr int kVectorCores = 1;
    int64_t found = 0;
    const int code = aclGetDeviceCapability(static_cast<uint32_t>(device), kVectorCores, &found);
    TORCH_CHECK(code == 0 && found > 0, "npu:", static_cast<int>(device),
                " does not tell how many vector cores it ", "has (aclGetDeviceCapability returned ", code, ")");
    cores = static_cast<uint32_t>(found);
  }
  return cores;
}

// `launch(num_vector_cores, stream)` on the stream that is current now. It may be called later, from torch_npu's
// queue: it holds addresses and numbers by value. The memory behind them stays in use without a reference, for
// what this call allocates (outputs, contiguous copies) belongs to the current stream, where its next user comes
// after the launch; a tensor of the caller that belongs to another stream needs record_stream, as for any
// operator.
template <typename Launch>
void LaunchOnCurrentStream(const char* op, const at::Tensor& on, Launch launch) {
  const c10::DeviceGuard guard(on.device());
  void* stream = c10_npu::getCurrentNPUStream(on.device().index()).stream(false);
  const uint32_t num_cores = NumVectorCores(on.device().index());
  at_npu::native::OpCommand::RunOpApiV2(op, [=]() -> int { return launch(num_cores, stream); });
}

}  // namespace ascend_ext
