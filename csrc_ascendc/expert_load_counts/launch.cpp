// SPDX-License-Identifier: Apache-2.0
#include "../launch.h"
#include "../launches.h"

#include "kernel.h"

extern "C" int32_t ascend_ext_launch_expert_load_add_counts(uint32_t num_vector_cores, void* stream, void* load,
                                                            const void* counts, int64_t num_experts,
                                                            int64_t count_bytes, int32_t is_cumsum) {
  using namespace ascend_ext;
  ExpertLoadCountsTiling tiling;
  if (count_bytes != 4 && count_bytes != 8) return static_cast<int32_t>(TilingError::kBadArgument);
  const auto error = TileExpertLoadCounts(num_experts, is_cumsum != 0, num_vector_cores, &tiling);
  if (error != TilingError::kNone) return static_cast<int32_t>(error);
  const Extents extents{{load, static_cast<uint64_t>(num_experts) * sizeof(int32_t), true},
                        {counts, static_cast<uint64_t>(num_experts * count_bytes), false}};
  uint8_t *to = Address(load), *from = Address(counts);
  const uint32_t cores = tiling.num_cores;
  if (count_bytes == 4)
    return ASCEND_EXT_LAUNCH(expert_load_add_counts_int32, cores, stream, extents, to, from, tiling);
  return ASCEND_EXT_LAUNCH(expert_load_add_counts_int64, cores, stream, extents, to, from, tiling);
}
