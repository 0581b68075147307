// SPDX-License-Identifier: Apache-2.0
// How expert_load_add_ divides T rows of K expert ids among vector cores and their unified buffers.
#pragma once

#include "../tiling.h"
#include "vector_layout.h"

namespace ascend_ext {

constexpr uint32_t kNumIdBuffers = 2;     // the next tile arrives while this one is counted
constexpr uint32_t kIdBytes = 16384;      // of a buffer: a batch of int32 ids, half of one of int64 ids
constexpr uint32_t kMinIdsPerCore = 256;  // a core adds all E counters: fewer ids do not pay for another core

struct ExpertLoadTiling {
  uint32_t num_cores;        // cores that get rows; 0 when there are none
  uint32_t rows_per_core;    // rows of every core but the last
  uint32_t rows_last_core;   // rows of the last core, 1 .. rows_per_core
  uint32_t rows_per_tile;    // rows counted from one buffer
  uint32_t histogram_bytes;  // counters of E experts, or of `lanes`, rounded up to 32 B
  uint32_t lanes;            // E rounded up to 64, 0 where the scalar unit counts
  uint32_t tile_bytes;       // one buffer of ids, rounded up to 32 B
  uint32_t top_k;
  uint32_t num_experts;
};

// num_rows (T) >= 0, top_k (K) >= 1, num_experts (E) >= 1, id_bytes 4 or 8, num_vector_cores >= 1.
TilingError TileExpertLoad(int64_t num_rows, int64_t top_k, int64_t num_experts, int64_t id_bytes,
                           int64_t num_vector_cores, ExpertLoadTiling* tiling);

}  // namespace ascend_ext
