// SPDX-License-Identifier: Apache-2.0
#include "../launch.h"
#include "../launches.h"

#include "kernel.h"

extern "C" int32_t ascend_ext_launch_expert_load_add(uint32_t num_vector_cores, void* stream, void* load,
                                                     const void* topk_ids, const void* num_tokens,
                                                     int64_t num_rows, int64_t top_k, int64_t num_experts,
                                                     int64_t id_bytes) {
  using namespace ascend_ext;
  ExpertLoadTiling tiling;
  const auto error = TileExpertLoad(num_rows, top_k, num_experts, id_bytes, num_vector_cores, &tiling);
  if (error != TilingError::kNone) return static_cast<int32_t>(error);
  if (tiling.num_cores == 0) return 0;
  const Extents extents{{load, static_cast<uint64_t>(num_experts) * sizeof(int32_t), true},
                        {topk_ids, static_cast<uint64_t>(num_rows * top_k * id_bytes), false},
                        {num_tokens, sizeof(int32_t), false}};
  uint8_t *to = Address(load), *ids = Address(topk_ids), *limit = Address(num_tokens);
  const uint32_t cores = tiling.num_cores;
  if (id_bytes == 4)
    return ASCEND_EXT_LAUNCH(expert_load_add_int32, cores, stream, extents, to, ids, limit, tiling);
  return ASCEND_EXT_LAUNCH(expert_load_add_int64, cores, stream, extents, to, ids, limit, tiling);
}
