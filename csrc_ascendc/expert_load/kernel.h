// SPDX-License-Identifier: Apache-2.0
// expert_load_add_: each core counts its rows in the unified buffer and adds its counters to global memory.
#pragma once

#include "../order.h"
#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

// Counts with the vector unit: an id x misses expert e by min((e - x)^2, 1), for all experts in one instruction and a
// batch of ids together; the misses of a batch are summed as a tree. In half, which is exact up to 2048; a square
// beyond its range is still more than 1. An expert's count is the number of ids less their misses.
class ComparedIds {
 public:
  // histogram: int32, `lanes` zeros.
  __aicore__ inline void Init(AscendC::TPipe* pipe, uint32_t lanes, const AscendC::LocalTensor<int32_t>& histogram) {
    lanes_ = lanes;
    histogram_ = histogram;
    pipe->InitBuffer(batch_buffer_, kBatchIds * lanes * sizeof(half));
    pipe->InitBuffer(experts_buffer_, lanes * sizeof(half));
    pipe->InitBuffer(misses_buffer_, lanes * sizeof(half));
    pipe->InitBuffer(wide_buffer_, lanes * sizeof(int32_t));
    batch_ = batch_buffer_.Get<half>();
    experts_ = experts_buffer_.Get<half>();
    misses_ = misses_buffer_.Get<half>();
    AscendC::Duplicate(misses_, Half(0), static_cast<int32_t>(lanes));
    for (uint32_t i = 0; i < kBlockHalves; ++i) experts_.SetValue(i, Half(static_cast<int32_t>(i)));
    Order<AscendC::HardEvent::S_V>(pipe);
    for (uint32_t known = kBlockHalves; known < lanes; known *= 2) {  // 0, 1, 2, ...: by doubling
      const uint32_t more = lanes - known < known ? lanes - known : known;
      AscendC::Adds(experts_[known], experts_, Half(static_cast<int32_t>(known)), static_cast<int32_t>(more));
      AscendC::PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline void Add(int32_t expert) {
    AscendC::Adds(batch_[num_in_batch_ * lanes_], experts_, Half(-expert), static_cast<int32_t>(lanes_));
    if (++num_in_batch_ == kBatchIds) SumBatch();
  }

  // What remains is summed, and the histogram is complete.
  __aicore__ inline void Finish() {
    if (num_in_batch_ != 0) {  // ids that miss everybody fill the batch
      const uint32_t rest = (kBatchIds - num_in_batch_) * lanes_;
      AscendC::Duplicate(batch_[num_in_batch_ * lanes_], Half(1), static_cast<int32_t>(rest));
      SumBatch();
    }
    if (num_summed_ != 0) TakeMisses();
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(histogram_, histogram_, num_ids_, static_cast<int32_t>(lanes_));
  }

 private:
  static constexpr uint32_t kBlockHalves = kBlockBytes / sizeof(half);
  static constexpr uint32_t kMaxSummed = 2048;  // integers in half

  static __aicore__ inline half Half(int32_t value) { return static_cast<half>(static_cast<float>(value)); }

  __aicore__ inline void SumBatch() {
    const int32_t all = static_cast<int32_t>(kBatchIds * lanes_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mul(batch_, batch_, batch_, all);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mins(batch_, batch_, Half(1), all);
    AscendC::PipeBarrier<PIPE_V>();
    for (uint32_t half_of = kBatchIds / 2; half_of > 0; half_of /= 2) {
      AscendC::Add(batch_, batch_, batch_[half_of * lanes_], static_cast<int32_t>(half_of * lanes_));
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Add(misses_, misses_, batch_, static_cast<int32_t>(lanes_));
    AscendC::PipeBarrier<PIPE_V>();
    num_in_batch_ = 0;
    num_ids_ += kBatchIds;
    num_summed_ += kBatchIds;
    if (num_summed_ == kMaxSummed) TakeMisses();
  }

  __aicore__ inline void TakeMisses() {
    const AscendC::LocalTensor<int32_t> wide = wide_buffer_.Get<int32_t>();
    AscendC::Cast(wide, misses_, AscendC::RoundMode::CAST_RINT, lanes_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Sub(histogram_, histogram_, wide, static_cast<int32_t>(lanes_));
    AscendC::Duplicate(misses_, Half(0), static_cast<int32_t>(lanes_));
    num_summed_ = 0;
  }

  uint32_t lanes_ = 0, num_in_batch_ = 0, num_summed_ = 0;
  int32_t num_ids_ = 0;  // with those that filled a batch
  AscendC::TBuf<AscendC::TPosition::VECCALC> batch_buffer_, experts_buffer_, misses_buffer_, wide_buffer_;
  AscendC::LocalTensor<half> batch_, experts_, misses_;
  AscendC::LocalTensor<int32_t> histogram_;
};

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
    if (tiling_.lanes != 0) {
      compared_.Init(pipe_, tiling_.lanes, histogram_);
      CountRows(begin, end);
      compared_.Finish();
      Order<AscendC::HardEvent::V_MTE3>(pipe_);
    } else {
      Order<AscendC::HardEvent::V_S>(pipe_);
      CountRows(begin, end);
      Order<AscendC::HardEvent::S_MTE3>(pipe_);
    }
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
    uint32_t i = 0;
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
    if (tiling_.lanes != 0) {
      compared_.Add(static_cast<int32_t>(expert));
    } else {
      histogram_.SetValue(expert, histogram_.GetValue(expert) + 1);
    }
  }

  __aicore__ inline void AddToLoad() {
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
  ComparedIds compared_;
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
