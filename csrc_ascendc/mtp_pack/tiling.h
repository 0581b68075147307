// SPDX-License-Identifier: Apache-2.0
// The records of mtp_pack_output and how they are divided among vector cores. ops/mtp_pack.py describes the
// record; both sides of this layout must change together.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

constexpr uint32_t kRecordWords = kBlockBytes / sizeof(int32_t);  // sections and records are multiples of this
constexpr uint32_t kHeaderWords = kRecordWords;                   // num_accepted, status, 6 unused

struct MtpPackTiling {
  uint32_t num_cores;
  uint32_t num_requests;  // B
  uint32_t num_slots;     // S: token slots a request
  uint32_t top_k;         // K; 0 without log-probabilities (and ranks)
  uint32_t slot_words;    // of the sections tokens and ranks: S rounded up to 8
  uint32_t top_k_words;   // of the sections top-k ids and log-probabilities: S * K rounded up to 8
  uint32_t record_words;
  uint32_t records_per_core;
  uint32_t records_per_tile;
};

inline TilingError TileMtpPack(int64_t num_requests, int64_t num_slots, int64_t top_k, int64_t num_vector_cores,
                               MtpPackTiling* tiling) {
  constexpr int64_t kMost = 1 << 20;
  if (num_requests < 0 || num_requests > INT32_MAX || num_slots < 1 || num_slots > kMost || top_k < 0 ||
      top_k > kMost || num_vector_cores < 1) {
    return TilingError::kBadArgument;
  }
  const int64_t slot_words = RoundUp(num_slots, kRecordWords);
  const int64_t top_k_words = RoundUp(num_slots * top_k, kRecordWords);
  const int64_t record_words = kHeaderWords + slot_words + (top_k == 0 ? 0 : 2 * top_k_words + slot_words);
  const int64_t records = kUnifiedBufferBytes / 2 / (record_words * static_cast<int64_t>(sizeof(int32_t)));
  if (records == 0) return TilingError::kRowTooWide;
  const int64_t per_core = num_requests == 0 ? 0 : CeilDiv(num_requests, num_vector_cores);
  tiling->num_cores = static_cast<uint32_t>(num_requests == 0 ? 0 : CeilDiv(num_requests, per_core));
  tiling->num_requests = static_cast<uint32_t>(num_requests);
  tiling->num_slots = static_cast<uint32_t>(num_slots);
  tiling->top_k = static_cast<uint32_t>(top_k);
  tiling->slot_words = static_cast<uint32_t>(slot_words);
  tiling->top_k_words = static_cast<uint32_t>(top_k_words);
  tiling->record_words = static_cast<uint32_t>(record_words);
  tiling->records_per_core = static_cast<uint32_t>(per_core);
  tiling->records_per_tile = static_cast<uint32_t>(records < per_core ? records : (per_core == 0 ? 1 : per_core));
  return TilingError::kNone;
}

}  // namespace ascend_ext
