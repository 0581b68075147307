// SPDX-License-Identifier: Apache-2.0
#include "../launch.h"
#include "../launches.h"

#include "kernel.h"

extern "C" int32_t ascend_ext_launch_mtp_pack_output(uint32_t num_vector_cores, void* stream, void* out,
                                                     const void* token_ids, const void* num_accepted,
                                                     const void* status, const void* top_k_ids,
                                                     const void* log_probabilities, const void* ranks,
                                                     int64_t num_requests, int64_t num_slots, int64_t top_k) {
  using namespace ascend_ext;
  MtpPackTiling tiling;
  const auto error = TileMtpPack(num_requests, num_slots, top_k, num_vector_cores, &tiling);
  if (error != TilingError::kNone) return static_cast<int32_t>(error);
  if (tiling.num_cores == 0) return 0;
  const uint64_t per_request = static_cast<uint64_t>(num_requests) * sizeof(int32_t);
  const uint64_t per_slot = per_request * num_slots, per_top = per_slot * top_k;
  const Extents extents{{out, per_request * tiling.record_words, true},
                        {token_ids, per_slot, false},
                        {num_accepted, per_request, false},
                        {status, per_request, false},
                        {top_k_ids, per_top, false},
                        {log_probabilities, per_top, false},
                        {ranks, top_k == 0 ? 0 : per_slot, false}};
  uint8_t *to = Address(out), *tokens = Address(token_ids), *accepted = Address(num_accepted),
          *state = Address(status), *ids = Address(top_k_ids), *logs = Address(log_probabilities),
          *rank = Address(ranks);
  return ASCEND_EXT_LAUNCH(mtp_pack_output, tiling.num_cores, stream, extents, to, tokens, accepted, state, ids,
                           logs, rank, tiling);
}
