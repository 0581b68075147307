// SPDX-License-Identifier: Apache-2.0
// expert_load_add_counts_: adds grouped counts, or the differences of their running sum, to the load.
#pragma once

#include "../order.h"
#include "../renamed.h"
#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

// load: int32 [E], added to atomically. counts: Count [E].
template <typename Count>
class ExpertLoadAddCounts {
 public:
  __aicore__ inline ExpertLoadAddCounts(AscendC::TPipe* pipe, const ExpertLoadCountsTiling& tiling)
      : pipe_(pipe), tiling_(tiling) {}

  __aicore__ inline void Process(GM_ADDR load, GM_ADDR counts) {
    load_.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(load), tiling_.num_experts);
    counts_.SetGlobalBuffer(reinterpret_cast<__gm__ Count*>(counts), tiling_.num_experts);
    pipe_->InitBuffer(in_buffer_, (kExpertsPerTile + kBlockBytes) * sizeof(Count));
    pipe_->InitBuffer(out_buffer_, kExpertsPerTile * sizeof(int32_t));
    const uint32_t begin = AscendC::GetBlockIdx() * tiling_.experts_per_core;
    uint32_t end = begin + tiling_.experts_per_core;
    end = end < tiling_.num_experts ? end : tiling_.num_experts;
    for (uint32_t expert = begin; expert < end; expert += kExpertsPerTile) {
      if (expert != begin) AscendC::PipeBarrier<PIPE_ALL>();  // thousands of experts a core: rare, so kept simple
      const uint32_t num_experts = end - expert < kExpertsPerTile ? end - expert : kExpertsPerTile;
      if (tiling_.is_cumsum != 0) {
        Differences(expert, num_experts);
      } else {
        Counts(expert, num_experts);
      }
      AscendC::SetAtomicAdd<int32_t>();
      const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(num_experts * sizeof(int32_t)), 0, 0, 0};
      AscendC::DataCopyPad(load_[expert], out_buffer_.template Get<int32_t>(), params);
      EndAtomicAdd();
    }
  }

 private:
  __aicore__ inline void Counts(uint32_t expert, uint32_t num_experts) {
    const AscendC::LocalTensor<Count> in = in_buffer_.template Get<Count>();
    const AscendC::LocalTensor<int32_t> out = out_buffer_.template Get<int32_t>();
    CopyIn(in, expert, num_experts, 0);
    Order<AscendC::HardEvent::MTE2_V>(pipe_);
    if constexpr (sizeof(Count) == sizeof(int32_t)) {
      AscendC::Adds(out, in, 0, static_cast<int32_t>(num_experts));
    } else {
      AscendC::Cast(out, in, AscendC::RoundMode::CAST_NONE, num_experts);
    }
    Order<AscendC::HardEvent::V_MTE3>(pipe_);
  }

  // in[i] is the running sum before expert + i: one element more, and a zero before the first expert
  __aicore__ inline void Differences(uint32_t expert, uint32_t num_experts) {
    const AscendC::LocalTensor<Count> in = in_buffer_.template Get<Count>();
    const AscendC::LocalTensor<int32_t> out = out_buffer_.template Get<int32_t>();
    if (expert == 0) {
      CopyIn(in, 0, num_experts, 1);
    } else {
      CopyIn(in, expert - 1, num_experts + 1, 0);
    }
    Order<AscendC::HardEvent::MTE2_S>(pipe_);
    Count before = in.GetValue(0);
    for (uint32_t i = 0; i < num_experts; ++i) {
      const Count sum = in.GetValue(i + 1);
      out.SetValue(i, static_cast<int32_t>(sum - before));
      before = sum;
    }
    Order<AscendC::HardEvent::S_MTE3>(pipe_);
  }

  __aicore__ inline void CopyIn(const AscendC::LocalTensor<Count>& in, uint32_t first, uint32_t num_counts,
                                uint8_t num_zeros) {
    const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(num_counts * sizeof(Count)), 0, 0, 0};
    const AscendC::DataCopyPadExtParams<Count> zeros{num_zeros != 0, num_zeros, 0, 0};
    AscendC::DataCopyPad(in, counts_[first], params, zeros);
  }

  AscendC::TPipe* pipe_;
  ExpertLoadCountsTiling tiling_;
  AscendC::GlobalTensor<int32_t> load_;
  AscendC::GlobalTensor<Count> counts_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> in_buffer_, out_buffer_;
};

}  // namespace ascend_ext

extern "C" __global__ __vector__ void expert_load_add_counts_int32(GM_ADDR load, GM_ADDR counts,
                                                                   ascend_ext::ExpertLoadCountsTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::ExpertLoadAddCounts<int32_t>(&pipe, tiling).Process(load, counts);
}

extern "C" __global__ __vector__ void expert_load_add_counts_int64(GM_ADDR load, GM_ADDR counts,
                                                                   ascend_ext::ExpertLoadCountsTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::ExpertLoadAddCounts<int64_t>(&pipe, tiling).Process(load, counts);
}
