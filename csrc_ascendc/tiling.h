// SPDX-License-Identifier: Apache-2.0
// What the tilings of all operators share. Host side, plain C++17: no CANN, no torch. A launch computes its tiling
// and passes it to the kernel by value.
#pragma once

#include <cstdint>

namespace ascend_ext {

// What a vector core may use of its 192 KB: the runtime reserves 256 B and 8 KB (CANN 8.5 to 9.1, dav-2201).
constexpr uint32_t kUnifiedBufferBytes = 188160;
constexpr uint32_t kBlockBytes = 32;    // alignment of unified-buffer addresses and of plain DataCopy lengths
constexpr uint32_t kLineBytes = 512;    // global memory moves fastest in copies that start on 512 B ...
constexpr uint32_t kCopyBytes = 16384;  // ... and have 16 KB or more

// kTooManyExperts: the counters leave no room for ids. kRowTooWide: not even one row fits.
enum class TilingError : int32_t { kNone = 0, kBadArgument = 1, kTooManyExperts = 2, kRowTooWide = 3 };

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t value, int64_t unit) { return CeilDiv(value, unit) * unit; }

}  // namespace ascend_ext
