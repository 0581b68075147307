// SPDX-License-Identifier: Apache-2.0
#include "tiling.h"

#include <algorithm>

namespace ascend_ext {
namespace {

constexpr int64_t kFloat = sizeof(float);

int64_t BufferBytes(int64_t stride, int64_t rows, int64_t columns, int64_t element_bytes) {
  const int64_t tile = RoundUp(rows * columns * element_bytes, kBlockBytes);
  const int64_t slots = rows * CeilDiv(stride, columns);
  return (2 * kNumInBuffers + kNumOutBuffers) * tile      // x, residual; y and residual_out
         + RoundUp(rows * columns * kFloat, kBlockBytes)  // squares, then products
         + RoundUp(rows * stride * kFloat, kBlockBytes)   // x + residual
         + RoundUp(stride * kFloat, kBlockBytes)          // weight
         + slots * kSlotFloats * kFloat                   // sums of squares
         + kBlockBytes;                                   // ReduceSum's partial sums
}

}  // namespace

int64_t AddRmsNormBufferBytes(const AddRmsNormTiling& tiling, int64_t element_bytes) {
  return BufferBytes(tiling.stride, tiling.rows_per_tile, tiling.columns_per_tile, element_bytes);
}

TilingError TileAddRmsNorm(int64_t num_rows, int64_t width, int64_t element_bytes, float epsilon,
                           int64_t num_vector_cores, AddRmsNormTiling* tiling) {
  const bool type_known = element_bytes == 2 || element_bytes == 4;
  if (tiling == nullptr || num_rows < 0 || num_rows > INT32_MAX || width < 1 || width > INT32_MAX / 8 ||
      num_vector_cores < 1 || !type_known) {
    return TilingError::kBadArgument;
  }
  const int64_t stride = RoundUp(width, kBlockBytes / element_bytes);
  const int64_t line = kLineBytes / element_bytes;  // elements
  const int64_t rows_per_core = num_rows == 0 ? 0 : CeilDiv(num_rows, num_vector_cores);
  int64_t rows = 1, columns = stride;
  const auto fits = [&](int64_t r, int64_t c) {
    return BufferBytes(stride, r, c, element_bytes) <= static_cast<int64_t>(kUnifiedBufferBytes);
  };
  if (fits(1, stride)) {  // whole rows, as many as it takes for a copy of 16 KB
    const int64_t wanted =
        std::min(CeilDiv(kCopyBytes, stride * element_bytes), std::max<int64_t>(rows_per_core, 1));
    while (rows < wanted && fits(rows + 1, stride)) ++rows;
  } else {  // equal parts of a row, each a multiple of 512 B
    int64_t parts = 1;
    do {
      columns = RoundUp(CeilDiv(stride, ++parts), line);
    } while (columns > line && !fits(1, columns));
    if (!fits(1, columns)) return TilingError::kRowTooWide;
  }
  tiling->num_cores = static_cast<uint32_t>(num_rows == 0 ? 0 : CeilDiv(num_rows, rows_per_core));
  tiling->num_rows = static_cast<uint32_t>(num_rows);
  tiling->rows_per_core = static_cast<uint32_t>(rows_per_core);
  tiling->width = static_cast<uint32_t>(width);
  tiling->stride = static_cast<uint32_t>(stride);
  tiling->rows_per_tile = static_cast<uint32_t>(rows);
  tiling->columns_per_tile = static_cast<uint32_t>(columns);
  tiling->epsilon = epsilon;
  return TilingError::kNone;
}

}  // namespace ascend_ext
