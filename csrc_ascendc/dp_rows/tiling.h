// SPDX-License-Identifier: Apache-2.0
// How dp_pad and dp_unpad divide their output, seen as bytes, among vector cores.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

constexpr uint32_t kRowTileBytes = 65536;   // one copy in or out; two of them are in flight
constexpr uint32_t kZeroTileBytes = 32768;  // one copy of zeros

struct DpRowsTiling {
  uint32_t num_cores;
  uint64_t bytes_per_core;        // a multiple of 512
  uint64_t out_bytes;             // all of the output
  uint64_t copy_begin, copy_end;  // the bytes of the output that are the input's; the others are zero
};

// Bytes of the output [0, out_bytes); 0 <= copy_begin <= copy_end <= out_bytes.
inline TilingError TileDpRows(int64_t out_bytes, int64_t copy_begin, int64_t copy_end, int64_t num_vector_cores,
                              DpRowsTiling* tiling) {
  if (copy_begin < 0 || copy_end < copy_begin || out_bytes < copy_end || num_vector_cores < 1) {
    return TilingError::kBadArgument;
  }
  int64_t bytes_per_core = RoundUp(CeilDiv(out_bytes, num_vector_cores), kLineBytes);
  if (bytes_per_core < kCopyBytes) bytes_per_core = kCopyBytes;
  tiling->num_cores = static_cast<uint32_t>(CeilDiv(out_bytes, bytes_per_core));
  tiling->bytes_per_core = static_cast<uint64_t>(bytes_per_core);
  tiling->out_bytes = static_cast<uint64_t>(out_bytes);
  tiling->copy_begin = static_cast<uint64_t>(copy_begin);
  tiling->copy_end = static_cast<uint64_t>(copy_end);
  return TilingError::kNone;
}

}  // namespace ascend_ext
