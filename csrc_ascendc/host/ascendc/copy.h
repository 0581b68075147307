// SPDX-License-Identifier: Apache-2.0
// AscendC's DataCopy and DataCopyPad between global memory and the unified buffer, and the atomic mode.
#pragma once

#include "queue.h"

namespace AscendC {

struct DataCopyExtParams {
  uint16_t blockCount;  // 0..4095
  uint32_t blockLen;    // bytes, 0..2097151
  uint32_t srcStride;   // gap from tail to head: bytes in global memory, 32-byte blocks in the unified buffer
  uint32_t dstStride;   // likewise
  uint32_t rsv;
};

template <typename T>
struct DataCopyPadExtParams {
  bool isPad;
  uint8_t leftPadding;   // elements
  uint8_t rightPadding;  // elements
  T paddingValue;
};

namespace copying {

constexpr uint32_t kSmallCopy = 16 * 1024, kGmAlignment = 512;

template <typename T>
constexpr bool kType = std::is_arithmetic_v<T> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16_t>;

inline uint32_t RoundUp(uint32_t bytes) { return (bytes + ascendc_host::kBlock - 1) / 32 * 32; }

inline void Count(Core& core, uintptr_t address, uint64_t bytes) {
  ++core.statistics.copies;
  core.statistics.small_copies += bytes < kSmallCopy;
  core.statistics.unaligned_copies += address % kGmAlignment != 0;
}

inline void CheckParams(const DataCopyExtParams& params, size_t type_bytes, Here here) {
  if (params.blockCount > 4095 || params.blockLen > 2097151 || params.blockLen % type_bytes != 0) {
    ascendc_host::Fail("copy-params", here,
                       Text("blockCount %u (0..4095), blockLen %u (0..2097151, multiple of the type's %zu bytes)",
                            params.blockCount, params.blockLen, type_bytes));
  }
}

template <typename T>
void CheckPadding(const DataCopyPadExtParams<T>& pad, Here here) {
  if (pad.leftPadding * sizeof(T) > 32 || pad.rightPadding * sizeof(T) > 32) {
    ascendc_host::Fail("copy-params", here, "more than 32 bytes of padding on a side");
  }
  if constexpr (sizeof(T) == 8) {
    const T zero{};
    if (std::memcmp(&pad.paddingValue, &zero, sizeof(T)) != 0) {
      ascendc_host::Fail("copy-params", here, "64-bit types can only be padded with 0");
    }
  }
}

// The whole of one copy into the unified buffer. `pad` null: nothing but data.
template <typename T>
void Load(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
          const DataCopyPadExtParams<T>& pad, Here here) {
  static_assert(kType<T>, "DataCopy: unsupported data type");
  Core& core = Core::Current();
  const uint32_t left = pad.leftPadding * sizeof(T), right = pad.rightPadding * sizeof(T);
  const uint32_t filled = RoundUp(left + params.blockLen + right), stride = filled + params.dstStride * 32;
  const uint64_t gm_stride = static_cast<uint64_t>(params.blockLen) + params.srcStride;
  dst.RequireAligned(here);
  if (params.blockCount == 0 || params.blockLen == 0) return;
  dst.Require(static_cast<uint64_t>(params.blockCount - 1) * stride + filled, here);
  const uintptr_t from = src.Require((params.blockCount - 1) * gm_stride + params.blockLen, here);
  const auto now = core.Begin(ascendc_host::kMte2, here);
  Count(core, from, static_cast<uint64_t>(params.blockCount) * params.blockLen);
  for (uint32_t b = 0; b < params.blockCount; ++b) {
    core.TouchGm(now, from + b * gm_stride, params.blockLen, GmAccess::kRead);
    core.TouchUb(now, dst.offset() + b * stride, filled, true);
  }
  core.Issue(ascendc_host::kMte2, [=, &core] {
    for (uint32_t b = 0; b < params.blockCount; ++b) {
      const uint32_t at = dst.offset() + b * stride;
      core.Poison(at, filled);  // what neither data nor padding fills is undefined
      std::memcpy(core.Bytes(at + left), reinterpret_cast<const void*>(from + b * gm_stride), params.blockLen);
      core.MarkInitialised(at + left, params.blockLen);
      if (!pad.isPad) continue;
      for (uint32_t i = 0; i < pad.leftPadding; ++i) {
        std::memcpy(core.Bytes(at + i * sizeof(T)), &pad.paddingValue, sizeof(T));
      }
      for (uint32_t i = 0; i < pad.rightPadding; ++i) {
        std::memcpy(core.Bytes(at + left + params.blockLen + i * sizeof(T)), &pad.paddingValue, sizeof(T));
      }
      core.MarkInitialised(at, left);
      core.MarkInitialised(at + left + params.blockLen, right);
    }
  });
}

template <typename T>
const void* TypeIdentity() {
  static const char identity = 0;
  return &identity;
}

template <typename T>
void AtomicAddOrCopy(Core& core, bool atomic, uintptr_t to, uint32_t from, uint32_t bytes) {
  if (!atomic) {
    std::memcpy(reinterpret_cast<void*>(to), core.Bytes(from), bytes);
    return;
  }
  std::lock_guard<std::mutex> lock(core.launch().atomic_add);
  for (uint32_t i = 0; i < bytes; i += sizeof(T)) {
    T sum, addend;
    std::memcpy(&sum, reinterpret_cast<void*>(to + i), sizeof(T));
    std::memcpy(&addend, core.Bytes(from + i), sizeof(T));
    if constexpr (std::is_integral_v<T>) {
      using U = std::make_unsigned_t<T>;
      sum = static_cast<T>(static_cast<U>(static_cast<U>(sum) + static_cast<U>(addend)));
    } else {
      sum = static_cast<T>(static_cast<float>(sum) + static_cast<float>(addend));
    }
    std::memcpy(reinterpret_cast<void*>(to + i), &sum, sizeof(T));
  }
}

template <typename T>
void Store(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params, Here here) {
  static_assert(kType<T>, "DataCopy: unsupported data type");
  Core& core = Core::Current();
  const uint32_t stride = RoundUp(params.blockLen) + params.srcStride * 32;
  const uint64_t gm_stride = static_cast<uint64_t>(params.blockLen) + params.dstStride;
  src.RequireAligned(here);
  if (params.blockCount == 0 || params.blockLen == 0) return;
  src.Require(static_cast<uint64_t>(params.blockCount - 1) * stride + params.blockLen, here);
  const uintptr_t to = dst.Require((params.blockCount - 1) * gm_stride + params.blockLen, here);
  const bool atomic = core.atomic_mode == ascendc_host::AtomicMode::kAdd;
  if (atomic && core.atomic_type != TypeIdentity<T>()) {
    ascendc_host::Fail("atomic-type", here, "copies one type while SetAtomicAdd was given another");
  }
  const auto now = core.Begin(ascendc_host::kMte3, here);
  Count(core, to, static_cast<uint64_t>(params.blockCount) * params.blockLen);
  for (uint32_t b = 0; b < params.blockCount; ++b) {
    core.TouchUb(now, src.offset() + b * stride, params.blockLen, false);
    core.TouchGm(now, to + b * gm_stride, params.blockLen, atomic ? GmAccess::kAtomicAdd : GmAccess::kWrite);
  }
  core.Issue(ascendc_host::kMte3, [=, &core] {
    for (uint32_t b = 0; b < params.blockCount; ++b) {
      core.RequireInitialised(src.offset() + b * stride, params.blockLen, here);
      AtomicAddOrCopy<T>(core, atomic, to + b * gm_stride, src.offset() + b * stride, params.blockLen);
    }
  });
}

template <typename T>
DataCopyExtParams Whole(uint32_t count, Here here) {
  const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(T);
  if (bytes % 32 != 0) {
    ascendc_host::Fail("copy-rounded", here,
                       Text("DataCopy of %llu bytes, which hardware rounds down to a multiple of 32",
                            static_cast<unsigned long long>(bytes)));
  }
  if (bytes > UINT32_MAX) ascendc_host::Fail("copy-params", here, "a copy of more than 4 GiB");
  return {1, static_cast<uint32_t>(bytes), 0, 0, 0};
}

}  // namespace copying

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count, ASCENDC_HERE) {
  copying::Load(dst, src, copying::Whole<T>(count, here), DataCopyPadExtParams<T>{}, here);
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, ASCENDC_HERE) {
  copying::Store(dst, src, copying::Whole<T>(count, here), here);
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                 const DataCopyPadExtParams<T>& pad, ASCENDC_HERE) {
  copying::CheckParams(params, sizeof(T), here);
  copying::CheckPadding(pad, here);
  copying::Load(dst, src, params, pad, here);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params,
                 ASCENDC_HERE) {
  copying::CheckParams(params, sizeof(T), here);
  copying::Store(dst, src, params, here);
}

template <typename T>
void SetAtomicAdd(ASCENDC_HERE) {
  static_assert(std::is_same_v<T, int8_t> || std::is_same_v<T, int16_t> || std::is_same_v<T, int32_t> ||
                    std::is_same_v<T, half> || std::is_same_v<T, bfloat16_t> || std::is_same_v<T, float>,
                "SetAtomicAdd: int8, int16, int32, half, bfloat16 or float");
  Core& core = Core::Current();
  core.atomic_mode = ascendc_host::AtomicMode::kAdd;
  core.atomic_type = copying::TypeIdentity<T>();
  core.atomic_here = here;
}

inline void SetAtomicNone() { Core::Current().atomic_mode = ascendc_host::AtomicMode::kNone; }
inline void DisableDmaAtomic() { SetAtomicNone(); }

}  // namespace AscendC
