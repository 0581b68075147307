// SPDX-License-Identifier: Apache-2.0
// How expert_load_add_ divides T rows of K expert ids among vector cores and their unified buffers.
// Host side only, plain C++17: no CANN, no torch. The launcher computes it once a shape and passes it to the
// kernel by value.
#pragma once

#include <cstdint>

namespace ascend_ext {

// What a vector core may use of its 192 KB: the runtime reserves 256 B and 8 KB (CANN 8.5 to 9.1, dav-2201).
constexpr uint32_t kUnifiedBufferBytes = 188160;
constexpr uint32_t kBlockBytes = 32;   // alignment of unified-buffer addresses and of plain DataCopy lengths
constexpr uint32_t kNumIdBuffers = 2;  // the next tile arrives while this one is counted

struct ExpertLoadTiling {
  uint32_t num_cores;       // cores that get rows; 0 when there are none
  uint32_t rows_per_core;   // rows of every core but the last
  uint32_t rows_last_core;  // rows of the last core, 1 .. rows_per_core
  uint32_t rows_per_tile;   // rows counted from one buffer
  uint32_t histogram_bytes; // counters of E experts, rounded up to 32 B
  uint32_t tile_bytes;      // one buffer of ids, rounded up to 32 B
};

enum class TilingError : int32_t { kNone = 0, kBadArgument = 1, kTooManyExperts = 2, kRowTooWide = 3 };

// num_rows (T) >= 0, top_k (K) >= 1, num_experts (E) >= 1, id_bytes 4 or 8, num_vector_cores >= 1.
// kTooManyExperts: the counters leave no room for ids. kRowTooWide: not even one row of ids fits beside them.
TilingError TileExpertLoad(int64_t num_rows, int64_t top_k, int64_t num_experts, int64_t id_bytes,
                           int64_t num_vector_cores, ExpertLoadTiling* tiling);

}  // namespace ascend_ext
