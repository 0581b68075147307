// SPDX-License-Identifier: Apache-2.0
#include "../launch.h"
#include "../launches.h"

#include "kernel.h"

extern "C" int32_t ascend_ext_launch_add_rms_norm(uint32_t num_vector_cores, void* stream, void* y,
                                                  void* residual_out, const void* x, const void* residual,
                                                  const void* weight, int64_t num_rows, int64_t width,
                                                  int32_t type, float epsilon) {
  using namespace ascend_ext;
  if (type < 0 || type > 2) return static_cast<int32_t>(TilingError::kBadArgument);
  const int64_t element_bytes = type == 2 ? 4 : 2;
  AddRmsNormTiling tiling;
  const auto error = TileAddRmsNorm(num_rows, width, element_bytes, epsilon, num_vector_cores, &tiling);
  if (error != TilingError::kNone) return static_cast<int32_t>(error);
  if (tiling.num_cores == 0) return 0;
  const uint64_t bytes = static_cast<uint64_t>(num_rows * width * element_bytes);
  const Extents extents{{y, bytes, true},
                        {residual_out, bytes, true},
                        {x, bytes, false},
                        {residual, bytes, false},
                        {weight, static_cast<uint64_t>(width * element_bytes), false}};
  uint8_t *out = Address(y), *sum = Address(residual_out), *a = Address(x), *b = Address(residual),
          *scale = Address(weight);
  const uint32_t cores = tiling.num_cores;
  if (type == 0)
    return ASCEND_EXT_LAUNCH(add_rms_norm_half, cores, stream, extents, out, sum, a, b, scale, tiling);
  if (type == 1)
    return ASCEND_EXT_LAUNCH(add_rms_norm_bfloat16, cores, stream, extents, out, sum, a, b, scale, tiling);
  return ASCEND_EXT_LAUNCH(add_rms_norm_float, cores, stream, extents, out, sum, a, b, scale, tiling);
}
