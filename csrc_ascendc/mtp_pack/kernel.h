// SPDX-License-Identifier: Apache-2.0
// mtp_pack_output: a tile of records is filled with -1, and what a request has accepted is copied over it. Only
// accepted data is read from global memory.
#pragma once

#include "../order.h"
#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

class MtpPack {
 public:
  __aicore__ inline MtpPack(AscendC::TPipe* pipe, const MtpPackTiling& tiling) : pipe_(pipe), tiling_(tiling) {}

  // All int32: out [B, record_words]; token_ids, ranks [B, S]; num_accepted, status [B]; top-k ids and the bits of
  // the log-probabilities [B, S, K]. The last three are null when K is 0.
  __aicore__ inline void Process(GM_ADDR out, GM_ADDR token_ids, GM_ADDR num_accepted, GM_ADDR status,
                                 GM_ADDR top_k_ids, GM_ADDR log_probabilities, GM_ADDR ranks) {
    const uint64_t num_requests = tiling_.num_requests;
    const uint64_t num_slots = num_requests * tiling_.num_slots;
    out_.SetGlobalBuffer(Words(out), num_requests * tiling_.record_words);
    token_ids_.SetGlobalBuffer(Words(token_ids), num_slots);
    num_accepted_.SetGlobalBuffer(Words(num_accepted), num_requests);
    status_.SetGlobalBuffer(Words(status), num_requests);
    top_k_ids_.SetGlobalBuffer(Words(top_k_ids), num_slots * tiling_.top_k);
    log_probabilities_.SetGlobalBuffer(Words(log_probabilities), num_slots * tiling_.top_k);
    ranks_.SetGlobalBuffer(Words(ranks), tiling_.top_k == 0 ? 0 : num_slots);
    const uint32_t begin = AscendC::GetBlockIdx() * tiling_.records_per_core;
    const uint32_t last = begin + tiling_.records_per_core;
    const uint32_t end = last < tiling_.num_requests ? last : tiling_.num_requests;
    pipe_->InitBuffer(records_, 2, tiling_.records_per_tile * tiling_.record_words * sizeof(int32_t));
    for (uint32_t request = begin; request < end; request += tiling_.records_per_tile) {
      PackTile(request, end - request < tiling_.records_per_tile ? end - request : tiling_.records_per_tile);
    }
  }

 private:
  static __aicore__ inline __gm__ int32_t* Words(GM_ADDR address) {
    return reinterpret_cast<__gm__ int32_t*>(address);
  }

  __aicore__ inline void PackTile(uint32_t first, uint32_t num_records) {
    const uint32_t num_words = num_records * tiling_.record_words;
    AscendC::LocalTensor<int32_t> tile = records_.AllocTensor<int32_t>();
    AscendC::Duplicate(tile, -1, static_cast<int32_t>(num_words));
    Order<AscendC::HardEvent::V_MTE2>(pipe_);
    Order<AscendC::HardEvent::V_S>(pipe_);
    for (uint32_t i = 0; i < num_records; ++i) PackRecord(tile[i * tiling_.record_words], first + i);
    Order<AscendC::HardEvent::MTE2_MTE3>(pipe_);
    Order<AscendC::HardEvent::S_MTE3>(pipe_);
    records_.EnQue(tile);
    tile = records_.DeQue<int32_t>();
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(num_words * sizeof(int32_t)), 0, 0, 0};
    AscendC::DataCopyPad(out_[static_cast<uint64_t>(first) * tiling_.record_words], tile, params);
    records_.FreeTensor(tile);
  }

  __aicore__ inline void PackRecord(const AscendC::LocalTensor<int32_t>& record, uint32_t request) {
    int32_t accepted = num_accepted_.GetValue(request);  // inputs nobody writes during the launch
    const int32_t most = static_cast<int32_t>(tiling_.num_slots);
    accepted = accepted < 0 ? 0 : (accepted > most ? most : accepted);
    record.SetValue(0, accepted);
    record.SetValue(1, status_.GetValue(request));
    if (accepted == 0) return;
    const uint64_t slot = static_cast<uint64_t>(request) * tiling_.num_slots;
    CopyPrefix(record[kHeaderWords], token_ids_[slot], accepted);
    if (tiling_.top_k == 0) return;
    const uint32_t ids = kHeaderWords + tiling_.slot_words, num_top = accepted * tiling_.top_k;
    CopyPrefix(record[ids], top_k_ids_[slot * tiling_.top_k], num_top);
    CopyPrefix(record[ids + tiling_.top_k_words], log_probabilities_[slot * tiling_.top_k], num_top);
    CopyPrefix(record[ids + 2 * tiling_.top_k_words], ranks_[slot], accepted);
  }

  // the first num_words of a section; the rest of their last 32-byte block is -1 again
  __aicore__ inline void CopyPrefix(const AscendC::LocalTensor<int32_t>& to,
                                    const AscendC::GlobalTensor<int32_t>& from, uint32_t num_words) {
    const uint8_t rest = static_cast<uint8_t>((kRecordWords - num_words % kRecordWords) % kRecordWords);
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(num_words * sizeof(int32_t)), 0, 0, 0};
    const AscendC::DataCopyPadExtParams<int32_t> fill{rest != 0, 0, rest, -1};
    AscendC::DataCopyPad(to, from, params, fill);
  }

  AscendC::TPipe* pipe_;
  MtpPackTiling tiling_;
  AscendC::GlobalTensor<int32_t> out_, token_ids_, num_accepted_, status_, top_k_ids_, log_probabilities_, ranks_;
  AscendC::TQue<AscendC::TPosition::VECOUT, 1> records_;
};

}  // namespace ascend_ext

extern "C" __global__ __vector__ void mtp_pack_output(GM_ADDR out, GM_ADDR token_ids, GM_ADDR num_accepted,
                                                      GM_ADDR status, GM_ADDR top_k_ids, GM_ADDR log_probabilities,
                                                      GM_ADDR ranks, ascend_ext::MtpPackTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::MtpPack(&pipe, tiling)
      .Process(out, token_ids, num_accepted, status, top_k_ids, log_probabilities, ranks);
}
