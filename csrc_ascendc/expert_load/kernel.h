// SPDX-License-Identifier: Apache-2.0
// expert_load_add_: each core counts its rows in the unified buffer and adds its counters to global memory.
#pragma once

#include "../order.h"
#include "../renamed.h"
#include "kernel_operator.h"
#include "tiling.h"
#include "vector_counts.h"

namespace ascend_ext {

// load: int32 [E], added to atomically. topk_ids: Id [T, K]. num_tokens: int32, one.
template <typename Id>
class ExpertLoadAdd {
 public:
  __aicore__ inline ExpertLoadAdd(AscendC::TPipe* pipe, const ExpertLoadTiling& tiling)
      : pipe_(pipe), tiling_(tiling) {}

  __aicore__ inline void Process(GM_ADDR load, GM_ADDR topk_ids, GM_ADDR num_tokens) {
    load_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(load), tiling_.num_experts);
    ids_.SetGlobalBuffer(reinterpret_cast<__gm__ Id*>(topk_ids));
    num_tokens_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(num_tokens), 1);
    const int64_t core = AscendC::GetBlockIdx();
    const int64_t begin = core * tiling_.rows_per_core;
    int64_t end = begin + (core + 1 == tiling_.num_cores ? tiling_.rows_last_core : tiling_.rows_per_core);
    const int64_t limit = num_tokens_.GetValue(0);  // an input nobody writes during the launch
    end = end < limit ? end : limit;
    if (begin >= end) return;

    pipe_->InitBuffer(histogram_buffer_, tiling_.histogram_bytes);
    histogram_ = histogram_buffer_.template Get<int32_t>();
    if (tiling_.lanes != 0) vector_counts_.Init(pipe_, tiling_, histogram_);  // right behind the histogram
    pipe_->InitBuffer(id_buffer_, kNumIdBuffers * tiling_.tile_bytes);
    if (tiling_.lanes != 0) {
      CountRows<AscendC::HardEvent::MTE2_V, AscendC::HardEvent::V_MTE2>(begin, end);
      vector_counts_.Finish();
      Order<AscendC::HardEvent::V_MTE3>(pipe_);
    } else {
      AscendC::Duplicate(histogram_, 0, static_cast<int32_t>(tiling_.histogram_bytes / sizeof(int32_t)));
      Order<AscendC::HardEvent::V_S>(pipe_);
      CountRows<AscendC::HardEvent::MTE2_S, AscendC::HardEvent::S_MTE2>(begin, end);
      Order<AscendC::HardEvent::S_MTE3>(pipe_);
    }
    AddToLoad();
  }

 private:
  // The pipe that counts waits for `arrives`, and the copies for `counted`.
  template <AscendC::HardEvent arrives, AscendC::HardEvent counted>
  __aicore__ inline void CountRows(int64_t begin, int64_t end) {
    for (uint32_t i = 0; i < kNumIdBuffers; ++i) {
      arrived_[i] = pipe_->template AllocEventID<arrives>();
      counted_[i] = pipe_->template AllocEventID<counted>();
    }
    const int64_t num_tiles = (end - begin + tiling_.rows_per_tile - 1) / tiling_.rows_per_tile;
    CopyIn<arrives>(0, begin, end);
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const uint32_t which = tile % kNumIdBuffers;
      if (tile + 1 < num_tiles) {
        const uint32_t next = (tile + 1) % kNumIdBuffers;
        if (tile + 1 >= kNumIdBuffers) AscendC::WaitFlag<counted>(counted_[next]);
        CopyIn<arrives>(next, begin + (tile + 1) * tiling_.rows_per_tile, end);
      }
      AscendC::WaitFlag<arrives>(arrived_[which]);
      CountTile(Tile(which), NumIds(begin + tile * tiling_.rows_per_tile, end));
      if (tile + kNumIdBuffers < num_tiles) AscendC::SetFlag<counted>(counted_[which]);
    }
    for (uint32_t i = 0; i < kNumIdBuffers; ++i) {
      pipe_->template ReleaseEventID<arrives>(arrived_[i]);
      pipe_->template ReleaseEventID<counted>(counted_[i]);
    }
  }

  __aicore__ inline uint32_t NumIds(int64_t row, int64_t end) const {
    const int64_t rows = end - row < tiling_.rows_per_tile ? end - row : tiling_.rows_per_tile;
    return static_cast<uint32_t>(rows * tiling_.top_k);
  }

  __aicore__ inline AscendC::LocalTensor<Id> Tile(uint32_t which) {
    return id_buffer_.template Get<Id>()[which * tiling_.tile_bytes / sizeof(Id)];
  }

  template <AscendC::HardEvent arrives>
  __aicore__ inline void CopyIn(uint32_t which, int64_t row, int64_t end) {
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(NumIds(row, end) * sizeof(Id)), 0, 0, 0};
    const AscendC::DataCopyPadExtParams<Id> no_padding{false, 0, 0, 0};
    AscendC::DataCopyPad(Tile(which), ids_[row * tiling_.top_k], params, no_padding);
    AscendC::SetFlag<arrives>(arrived_[which]);
  }

  __aicore__ inline void CountTile(const AscendC::LocalTensor<Id>& ids, uint32_t num_ids) {
    uint32_t i = 0;
    if (tiling_.lanes != 0) {
      for (; i < num_ids; i += kBatchIds) {
        vector_counts_.Count(ids[i], num_ids - i < kBatchIds ? num_ids - i : kBatchIds);
      }
      return;
    }
    if constexpr (sizeof(Id) == sizeof(int32_t)) {  // two ids by one access
      const AscendC::LocalTensor<int64_t> pairs = ids.template ReinterpretCast<int64_t>();
      for (; i + 1 < num_ids; i += 2) {
        const uint64_t pair = static_cast<uint64_t>(pairs.GetValue(i / 2));
        CountId(static_cast<int32_t>(pair));
        CountId(static_cast<int32_t>(pair >> 32));
      }
    }
    for (; i < num_ids; ++i) CountId(ids.GetValue(i));
  }

  __aicore__ inline void CountId(int64_t expert) {
    if (expert < 0 || expert >= tiling_.num_experts) return;
    histogram_.SetValue(expert, histogram_.GetValue(expert) + 1);
  }

  __aicore__ inline void AddToLoad() {
    AscendC::SetAtomicAdd<int32_t>();
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(tiling_.num_experts * sizeof(int32_t)), 0, 0,
                                            0};
    AscendC::DataCopyPad(load_, histogram_, params);
    EndAtomicAdd();
  }

  AscendC::TPipe* pipe_;
  ExpertLoadTiling tiling_;
  AscendC::GlobalTensor<int32_t> load_, num_tokens_;
  AscendC::GlobalTensor<Id> ids_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> histogram_buffer_, id_buffer_;
  VectorCounts<Id> vector_counts_;
  AscendC::LocalTensor<int32_t> histogram_;
  AscendC::TEventID arrived_[kNumIdBuffers], counted_[kNumIdBuffers];
};

}  // namespace ascend_ext

extern "C" __global__ __vector__ void expert_load_add_int32(GM_ADDR load, GM_ADDR topk_ids, GM_ADDR num_tokens,
                                                            ascend_ext::ExpertLoadTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::ExpertLoadAdd<int32_t>(&pipe, tiling).Process(load, topk_ids, num_tokens);
}

extern "C" __global__ __vector__ void expert_load_add_int64(GM_ADDR load, GM_ADDR topk_ids, GM_ADDR num_tokens,
                                                            ascend_ext::ExpertLoadTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::ExpertLoadAdd<int64_t>(&pipe, tiling).Process(load, topk_ids, num_tokens);
}
