// SPDX-License-Identifier: Apache-2.0
#include "../launch.h"
#include "../launches.h"

#include "kernel.h"

namespace ascend_ext {
namespace {

int32_t LaunchDpRows(uint32_t num_vector_cores, void* stream, void* out, const void* in, int64_t out_bytes,
                     int64_t copy_begin, int64_t copy_end) {
  DpRowsTiling tiling;
  const auto error = TileDpRows(out_bytes, copy_begin, copy_end, num_vector_cores, &tiling);
  if (error != TilingError::kNone) return static_cast<int32_t>(error);
  if (tiling.num_cores == 0) return 0;
  const Extents extents{{out, static_cast<uint64_t>(out_bytes), true},
                        {in, static_cast<uint64_t>(copy_end - copy_begin), false}};
  uint8_t *to = Address(out), *from = Address(in);
  return ASCEND_EXT_LAUNCH(dp_rows, tiling.num_cores, stream, extents, to, from, tiling);
}

}  // namespace
}  // namespace ascend_ext

extern "C" int32_t ascend_ext_launch_dp_pad(uint32_t num_vector_cores, void* stream, void* out, const void* in,
                                            int64_t rows, int64_t offset, int64_t total, int64_t row_bytes) {
  return ascend_ext::LaunchDpRows(num_vector_cores, stream, out, in, total * row_bytes, offset * row_bytes,
                                  (offset + rows) * row_bytes);
}

extern "C" int32_t ascend_ext_launch_dp_unpad(uint32_t num_vector_cores, void* stream, void* out, const void* in,
                                              int64_t rows, int64_t offset, int64_t row_bytes) {
  if (rows < 0 || offset < 0) return static_cast<int32_t>(ascend_ext::TilingError::kBadArgument);
  return ascend_ext::LaunchDpRows(num_vector_cores, stream, out, ascend_ext::Address(in) + offset * row_bytes,
                                  rows * row_bytes, 0, rows * row_bytes);
}
