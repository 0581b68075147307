// SPDX-License-Identifier: Apache-2.0
// expert_load_add_: each core counts its rows in the unified buffer and adds its counters to global memory.
#pragma once

#include "../order.h"
#include "kernel_operator.h"
#include "tiling.h"

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
    pipe_->InitBuffer(id_buffer_, kNumIdBuffers * tiling_.tile_bytes);
    histogram_ = histogram_buffer_.template Get<int32_t>();
    AscendC::Duplicate(histogram_, 0, static_cast<int32_t>(tiling_.histogram_bytes / sizeof(int32_t)));
    Order<AscendC::HardEvent::V_S>(pipe_);
    CountRows(begin, end);
    AddToLoad();
  }

 private:
  __aicore__ inline void CountRows(int64_t begin, int64_t end) {
    for (uint32_t i = 0; i < kNumIdBuffers; ++i) {
      arrived_[i] = pipe_->template AllocEventID<AscendC::HardEvent::MTE2_S>();
      counted_[i] = pipe_->template AllocEventID<AscendC::HardEvent::S_MTE2>();
    }
    const int64_t num_tiles = (end - begin + tiling_.rows_per_tile - 1) / tiling_.rows_per_tile;
    CopyIn(0, begin, end);
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const uint32_t which = tile % kNumIdBuffers;
      if (tile + 1 < num_tiles) {
        const uint32_t next = (tile + 1) % kNumIdBuffers;
        if (tile + 1 >= kNumIdBuffers) AscendC::WaitFlag<AscendC::HardEvent::S_MTE2>(counted_[next]);
        CopyIn(next, begin + (tile + 1) * tiling_.rows_per_tile, end);
      }
      AscendC::WaitFlag<AscendC::HardEvent::MTE2_S>(arrived_[which]);
      CountTile(which, begin + tile * tiling_.rows_per_tile, end);
      if (tile + kNumIdBuffers < num_tiles) AscendC::SetFlag<AscendC::HardEvent::S_MTE2>(counted_[which]);
    }
    for (uint32_t i = 0; i < kNumIdBuffers; ++i) {
      pipe_->template ReleaseEventID<AscendC::HardEvent::MTE2_S>(arrived_[i]);
      pipe_->template ReleaseEventID<AscendC::HardEvent::S_MTE2>(counted_[i]);
    }
  }

  __aicore__ inline uint32_t NumIds(int64_t row, int64_t end) const {
    const int64_t rows = end - row < tiling_.rows_per_tile ? end - row : tiling_.rows_per_tile;
    return static_cast<uint32_t>(rows * tiling_.top_k);
  }

  __aicore__ inline AscendC::LocalTensor<Id> Tile(uint32_t which) {
    return id_buffer_.template Get<Id>()[which * tiling_.tile_bytes / sizeof(Id)];
  }

  __aicore__ inline void CopyIn(uint32_t which, int64_t row, int64_t end) {
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(NumIds(row, end) * sizeof(Id)), 0, 0, 0};
    const AscendC::DataCopyPadExtParams<Id> no_padding{false, 0, 0, 0};
    AscendC::DataCopyPad(Tile(which), ids_[row * tiling_.top_k], params, no_padding);
    AscendC::SetFlag<AscendC::HardEvent::MTE2_S>(arrived_[which]);
  }

  __aicore__ inline void CountTile(uint32_t which, int64_t row, int64_t end) {
    const AscendC::LocalTensor<Id> ids = Tile(which);
    const uint32_t num_ids = NumIds(row, end);
    for (uint32_t i = 0; i < num_ids; ++i) {
      const int64_t expert = ids.GetValue(i);
      if (expert < 0 || expert >= tiling_.num_experts) continue;
      histogram_.SetValue(expert, histogram_.GetValue(expert) + 1);
    }
  }

  __aicore__ inline void AddToLoad() {
    Order<AscendC::HardEvent::S_MTE3>(pipe_);
    AscendC::SetAtomicAdd<int32_t>();
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(tiling_.num_experts * sizeof(int32_t)), 0, 0, 0};
    AscendC::DataCopyPad(load_, histogram_, params);
    AscendC::SetAtomicNone();
  }

  AscendC::TPipe* pipe_;
  ExpertLoadTiling tiling_;
  AscendC::GlobalTensor<int32_t> load_, num_tokens_;
  AscendC::GlobalTensor<Id> ids_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> histogram_buffer_, id_buffer_;
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
