// SPDX-License-Identifier: Apache-2.0
// How expert_load_add_ divides T rows of K expert ids among vector cores and their unified buffers.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

constexpr uint32_t kNumIdBuffers = 2;     // the next tile arrives while this one is counted
constexpr uint32_t kIdBytes = 24576;      // of a buffer: three batches of int32 ids
constexpr uint32_t kMinIdsPerCore = 256;  // a core adds all E counters: fewer ids do not pay for another core

// Up to this many experts the vector unit counts, a batch of ids at a time (kernel.h); beyond, and slower, the
// scalar unit counts one id after the other.
constexpr uint32_t kMaxVectorExperts = 512;
constexpr uint32_t kBatchIds = 2048;
constexpr uint32_t kGroupIds = 256;  // as many as the bits of a block of 32 bytes
constexpr uint32_t kDigits = 8;      // an expert is three octal digits: h, m, l = e / 64, e / 8 % 8, e % 8
constexpr uint32_t kNumGroups = kBatchIds / kGroupIds;
constexpr uint32_t kRepeatBytes = 256;
// Rows of bits, a block for each group: those of the digits h, m and l, and l again.
constexpr uint32_t kDigitRows = kMaxVectorExperts / 64 + 2 * kDigits;
constexpr uint32_t kDigitBytes = (kDigitRows + kDigits) * kNumGroups * kBlockBytes;
// The vector unit's buffers: digits in half to compare with, three masks, the ids in float, in int16 and a digit
// of them in int16 and half, rows of bits.
constexpr uint32_t kVectorBytes =
    kDigits * kBatchIds * 2 + 3 * kRepeatBytes + kBatchIds * (4 + 3 * 2) + kDigitBytes;
// And for each expert: rows of h and m of every group, two rows of fields beside each other and one of bytes, then
// sums of blocks, of pairs, and these in int32.
constexpr uint32_t kVectorLaneBytes = kNumGroups * kBlockBytes / kDigits + 3 * kBlockBytes + 2 * 2 + 2 + 4;

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
