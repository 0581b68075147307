// SPDX-License-Identifier: Apache-2.0
#include "tiling.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace ascend_ext {
namespace {

// What a core counts at most for the sake of few bytes, as ids times lanes: some 9,000 cycles.
constexpr int64_t kMaxIdLanes = 20 * 256 * 257;

// Each core adds all counters, so fewer cores move fewer bytes: as many as keep them within 5 % of what must be
// moved, unless those would count for long. The scalar unit is too slow to do without cores.
int64_t IdsPerCore(int64_t num_ids, int64_t num_experts, int64_t id_bytes, int64_t lanes,
                   int64_t num_vector_cores) {
  const int64_t all_cores = std::max<int64_t>(CeilDiv(num_ids, num_vector_cores), kMinIdsPerCore);
  if (lanes == 0) return all_cores;
  const int64_t few_bytes = 20 * (num_experts + 1) * static_cast<int64_t>(sizeof(int32_t)) / id_bytes;
  return std::max(all_cores, std::min(few_bytes, kMaxIdLanes / lanes));
}

// About as many for each of as many cores as `wanted` rows a core make, in whole lines.
int64_t RowsPerCore(int64_t num_rows, int64_t wanted, int64_t rows_per_line) {
  if (num_rows == 0) return 0;
  const int64_t most = std::min(RoundUp(wanted, rows_per_line), num_rows);
  return std::min(RoundUp(CeilDiv(num_rows, CeilDiv(num_rows, most)), rows_per_line), num_rows);
}

}  // namespace

TilingError TileExpertLoad(int64_t num_rows, int64_t top_k, int64_t num_experts, int64_t id_bytes,
                           int64_t num_vector_cores, ExpertLoadTiling* tiling) {
  constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();
  const bool id_type_known = id_bytes == 4 || id_bytes == 8;
  if (tiling == nullptr || num_rows < 0 || num_rows > kMaxRows || top_k < 1 || num_experts < 1 ||
      num_vector_cores < 1 || !id_type_known) {
    return TilingError::kBadArgument;
  }
  const int64_t max_counters = kUnifiedBufferBytes / static_cast<int64_t>(sizeof(int32_t));
  if (num_experts > max_counters) return TilingError::kTooManyExperts;
  const int64_t lanes = num_experts > kMaxVectorExperts ? 0 : RoundUp(num_experts, kDigits * kDigits);
  const int64_t counters = lanes == 0 ? num_experts : lanes;
  const int64_t histogram_bytes = RoundUp(counters * static_cast<int64_t>(sizeof(int32_t)), kBlockBytes);
  const int64_t taken = lanes == 0 ? histogram_bytes : kVectorBytes;
  const int64_t bytes_per_buffer = (kUnifiedBufferBytes - taken) / kNumIdBuffers / kBlockBytes * kBlockBytes;
  if (bytes_per_buffer <= 0) return TilingError::kTooManyExperts;
  if (top_k > bytes_per_buffer / id_bytes) return TilingError::kRowTooWide;
  const int64_t row_bytes = top_k * id_bytes;

  // a core's rows and tiles start on 512 B where that many rows are at hand
  const int64_t rows_per_line = kLineBytes / std::gcd<int64_t>(kLineBytes, row_bytes);
  const int64_t ids_per_core = IdsPerCore(num_rows * top_k, num_experts, id_bytes, lanes, num_vector_cores);
  const int64_t rows_per_core = RowsPerCore(num_rows, CeilDiv(ids_per_core, top_k), rows_per_line);
  const int64_t num_cores = num_rows == 0 ? 0 : CeilDiv(num_rows, rows_per_core);
  const int64_t tile_bytes = std::min<int64_t>(bytes_per_buffer, kIdBytes);
  int64_t rows_per_tile = std::max<int64_t>(1, std::min(rows_per_core, tile_bytes / row_bytes));
  if (rows_per_tile > rows_per_line) rows_per_tile -= rows_per_tile % rows_per_line;
  tiling->num_cores = static_cast<uint32_t>(num_cores);
  tiling->rows_per_core = static_cast<uint32_t>(rows_per_core);
  tiling->rows_last_core = static_cast<uint32_t>(num_rows - rows_per_core * std::max<int64_t>(num_cores - 1, 0));
  tiling->rows_per_tile = static_cast<uint32_t>(rows_per_tile);
  tiling->histogram_bytes = static_cast<uint32_t>(histogram_bytes);
  tiling->lanes = static_cast<uint32_t>(lanes);
  tiling->tile_bytes = static_cast<uint32_t>(RoundUp(rows_per_tile * row_bytes, kBlockBytes));
  tiling->top_k = static_cast<uint32_t>(top_k);
  tiling->num_experts = static_cast<uint32_t>(num_experts);
  return TilingError::kNone;
}

}  // namespace ascend_ext

// For ctypes: the same, with the error as an int.
extern "C" int32_t ascend_ext_tile_expert_load(int64_t num_rows, int64_t top_k, int64_t num_experts,
                                               int64_t id_bytes, int64_t num_vector_cores,
                                               ascend_ext::ExpertLoadTiling* tiling) {
  return static_cast<int32_t>(
      ascend_ext::TileExpertLoad(num_rows, top_k, num_experts, id_bytes, num_vector_cores, tiling));
}
