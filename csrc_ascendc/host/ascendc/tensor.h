// SPDX-License-Identifier: Apache-2.0
// AscendC's LocalTensor (unified buffer) and GlobalTensor (global memory), with their scalar accesses.
#pragma once

#include <cstring>
#include <type_traits>

#include "core.h"
#include "numbers.h"

#define __gm__
#define __aicore__
#define __global__
#define __vector__

using GM_ADDR = __gm__ uint8_t*;

namespace AscendC {

using ascendc_host::Core;
using ascendc_host::GmAccess;
using ascendc_host::Here;
using ascendc_host::Text;

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;

  LocalTensor() = default;
  LocalTensor(uint32_t offset, uint32_t bytes, ascendc_host::Queue* queue, int buffer)
      : offset_(offset), bytes_(bytes), queue_(queue), buffer_(buffer) {
    if (queue_ != nullptr) generation_ = queue_->buffers[buffer_].generation;
  }

  uint32_t GetSize() const { return bytes_ / sizeof(T); }

  LocalTensor operator[](uint32_t element) const {
    LocalTensor part = *this;
    const uint64_t skipped = static_cast<uint64_t>(element) * sizeof(T);
    part.offset_ += static_cast<uint32_t>(skipped);
    part.bytes_ = skipped > bytes_ ? 0 : bytes_ - static_cast<uint32_t>(skipped);
    return part;
  }

  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    LocalTensor<U> other;
    other.offset_ = offset_;
    other.bytes_ = bytes_;
    other.queue_ = queue_;
    other.buffer_ = buffer_;
    other.generation_ = generation_;
    return other;
  }

  T GetValue(uint32_t element, ASCENDC_HERE) const {
    Core& core = Core::Current();
    const uint32_t at = ScalarAccess(core, element, false, here);
    core.RequireInitialised(at, sizeof(T), here);
    T value;
    std::memcpy(&value, core.Bytes(at), sizeof(T));
    return value;
  }

  void SetValue(uint32_t element, T value, ASCENDC_HERE) const {
    Core& core = Core::Current();
    const uint32_t at = ScalarAccess(core, element, true, here);
    std::memcpy(core.Bytes(at), &value, sizeof(T));
    core.MarkInitialised(at, sizeof(T));
  }

  // For the emulation: `bytes` from the start of this tensor are there, and the tensor is not stale.
  void Require(uint64_t bytes, Here here) const {
    if (queue_ != nullptr) {
      const auto& buffer = queue_->buffers[buffer_];
      if (buffer.generation != generation_ || buffer.state == ascendc_host::BufferState::kFree) {
        ascendc_host::Fail("stale-tensor", here, "uses a tensor that was freed");
      }
    }
    if (bytes > bytes_ || offset_ + bytes > Core::Current().reserved()) {
      ascendc_host::Fail(
          "ub-bounds", here,
          Text("touches %llu bytes where its tensor has %u", static_cast<unsigned long long>(bytes), bytes_));
    }
  }
  void RequireAligned(Here here) const {
    if (offset_ % ascendc_host::kBlock != 0) {
      ascendc_host::Fail("ub-alignment", here,
                         Text("an operand at unified-buffer address %u, which is no multiple of 32", offset_));
    }
  }
  uint32_t offset() const { return offset_; }
  ascendc_host::Queue* queue() const { return queue_; }
  int buffer() const { return buffer_; }

 private:
  template <typename U>
  friend class LocalTensor;

  uint32_t ScalarAccess(Core& core, uint32_t element, bool write, Here here) const {
    Require((static_cast<uint64_t>(element) + 1) * sizeof(T), here);
    const uint32_t at = offset_ + element * static_cast<uint32_t>(sizeof(T));
    core.TouchUb(core.Begin(ascendc_host::kScalar, here), at, sizeof(T), write);
    ++core.statistics.scalar_accesses;
    return at;
  }

  uint32_t offset_ = 0, bytes_ = 0, generation_ = 0;
  ascendc_host::Queue* queue_ = nullptr;
  int buffer_ = 0;
};

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(__gm__ T* address, uint64_t num_elements) {
    address_ = address;
    num_elements_ = num_elements;
  }
  void SetGlobalBuffer(__gm__ T* address) { SetGlobalBuffer(address, UINT64_MAX / sizeof(T)); }

  __gm__ T* GetPhyAddr() const { return address_; }
  uint64_t GetSize() const { return num_elements_; }

  GlobalTensor operator[](uint64_t element) const {
    GlobalTensor part;
    part.address_ = reinterpret_cast<T*>(address() + element * sizeof(T));
    part.num_elements_ = element > num_elements_ ? 0 : num_elements_ - element;
    return part;
  }

  T GetValue(uint64_t element, ASCENDC_HERE) const {
    T value;
    std::memcpy(&value, ScalarAccess(element, GmAccess::kRead, here), sizeof(T));
    return value;
  }

  void SetValue(uint64_t element, T value, ASCENDC_HERE) const {
    T* at = ScalarAccess(element, GmAccess::kWrite, here);
    Core::Current().scalar_cache.Write(reinterpret_cast<uintptr_t>(at), sizeof(T), here);
    std::memcpy(at, &value, sizeof(T));
  }

  // For the emulation: the address of `bytes` bytes from here on, which must lie inside SetGlobalBuffer's size.
  uintptr_t Require(uint64_t bytes, Here here) const {
    if (bytes > num_elements_ * sizeof(T)) {
      ascendc_host::Fail("gm-bounds", here,
                         Text("touches %llu bytes where SetGlobalBuffer's size leaves %llu",
                              static_cast<unsigned long long>(bytes),
                              static_cast<unsigned long long>(num_elements_ * sizeof(T))));
    }
    if (address() % sizeof(T) != 0) {
      ascendc_host::Fail("gm-alignment", here,
                         Text("a global address that is no multiple of its type's %zu bytes", sizeof(T)));
    }
    return address();
  }

 private:
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(address_); }

  T* ScalarAccess(uint64_t element, GmAccess access, Here here) const {
    Core& core = Core::Current();
    const uintptr_t at = (*this)[element].Require(sizeof(T), here);
    core.TouchGm(core.Begin(ascendc_host::kScalar, here), at, sizeof(T), access);
    ++core.statistics.scalar_accesses;
    return reinterpret_cast<T*>(at);
  }

  T* address_ = nullptr;
  uint64_t num_elements_ = 0;
};

inline int64_t GetBlockIdx() { return Core::Current().index(); }
inline int64_t GetBlockNum() { return Core::Current().launch().num_cores; }

enum class CacheLine { SINGLE_CACHE_LINE, ENTIRE_DATA_CACHE };
enum class DcciDst { CACHELINE_ALL, CACHELINE_UB, CACHELINE_OUT, CACHELINE_ATOMIC };

template <typename T, CacheLine line, DcciDst destination>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor) {
  auto& cache = Core::Current().scalar_cache;
  if (line == CacheLine::ENTIRE_DATA_CACHE) {
    cache.dirty.clear();
  } else {
    cache.Clean(reinterpret_cast<uintptr_t>(tensor.GetPhyAddr()));
  }
}

}  // namespace AscendC
