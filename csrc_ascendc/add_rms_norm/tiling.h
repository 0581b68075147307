// SPDX-License-Identifier: Apache-2.0
// How add_rms_norm divides T rows of H elements among vector cores and their unified buffers.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

constexpr uint32_t kNumInBuffers = 2, kNumOutBuffers = 2;
constexpr uint32_t kSlotFloats = 8;  // one sum of squares has a 32-byte block of its own

struct AddRmsNormTiling {
  uint32_t num_cores;
  uint32_t num_rows;
  uint32_t rows_per_core;
  uint32_t width;             // H
  uint32_t stride;            // elements between rows in the unified buffer: H rounded up to 32 B
  uint32_t rows_per_tile;     // more than 1 only where whole rows fit
  uint32_t columns_per_tile;  // `stride`, or less where a whole row does not fit
  float epsilon;
};

// num_rows (T) >= 0, width (H) >= 1, element_bytes 2 or 4. kRowTooWide: the sums and weights of one row do not
// fit.
TilingError TileAddRmsNorm(int64_t num_rows, int64_t width, int64_t element_bytes, float epsilon,
                           int64_t num_vector_cores, AddRmsNormTiling* tiling);

// Bytes of unified buffer that the kernel asks for.
int64_t AddRmsNormBufferBytes(const AddRmsNormTiling& tiling, int64_t element_bytes);

}  // namespace ascend_ext
