// SPDX-License-Identifier: Apache-2.0
// HCCL's public numbers (HCCL API documentation: "HcclDataType", "HcclReduceOp", "HcclResult"; the same tables are
// in vllm_ascend/distributed/device_communicators/pyhccl_wrapper.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu::hccl {

enum class DataType : int32_t {
  kInt8 = 0,
  kInt16 = 1,
  kInt32 = 2,
  kFp16 = 3,
  kFp32 = 4,
  kInt64 = 5,
  kUint64 = 6,
  kUint8 = 7,
  kUint16 = 8,
  kUint32 = 9,
  kFp64 = 10,
  kBf16 = 11,
  kFp8E4M3 = 15,  // moved, never reduced
  kFp8E5M2 = 16,
};

enum class ReduceOp : int32_t { kSum = 0, kProd = 1, kMax = 2, kMin = 3 };

constexpr int kHcclSuccess = 0;
constexpr int kHcclParameter = 1;
constexpr int kHcclInternal = 4;
constexpr int kHcclRemote = 21;

// Throw Error for a number that HCCL does not have.
size_t SizeOf(DataType type);
const char* NameOf(DataType type);
const char* NameOf(ReduceOp op);

// result[i] = op over ranks of inputs[rank][i], in rank order; half types accumulate in float32, so every rank
// that reduces the same inputs gets the same bits. Throws Error for a type that cannot be reduced.
void Reduce(DataType type, ReduceOp op, const char* const* inputs, int num_inputs, size_t count, char* result);

}  // namespace emu::hccl
