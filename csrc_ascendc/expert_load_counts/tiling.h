// SPDX-License-Identifier: Apache-2.0
// How expert_load_add_counts_ divides E experts among vector cores.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

constexpr uint32_t kMinExpertsPerCore = kLineBytes / sizeof(int32_t);
constexpr uint32_t kExpertsPerTile = 4096;

struct ExpertLoadCountsTiling {
  uint32_t num_cores;
  uint32_t experts_per_core;  // a multiple of 128, so that cores write whole 512-byte lines
  uint32_t num_experts;
  uint32_t is_cumsum;
};

inline TilingError TileExpertLoadCounts(int64_t num_experts, bool is_cumsum, int64_t num_vector_cores,
                                        ExpertLoadCountsTiling* tiling) {
  if (num_experts < 1 || num_experts > INT32_MAX || num_vector_cores < 1) return TilingError::kBadArgument;
  const int64_t experts_per_core = RoundUp(CeilDiv(num_experts, num_vector_cores), kMinExpertsPerCore);
  tiling->num_cores = static_cast<uint32_t>(CeilDiv(num_experts, experts_per_core));
  tiling->experts_per_core = static_cast<uint32_t>(experts_per_core);
  tiling->num_experts = static_cast<uint32_t>(num_experts);
  tiling->is_cumsum = is_cumsum ? 1 : 0;
  return TilingError::kNone;
}

}  // namespace ascend_ext
