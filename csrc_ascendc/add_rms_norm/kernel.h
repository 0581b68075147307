// SPDX-License-Identifier: Apache-2.0
// add_rms_norm: residual_out = x + residual, y = residual_out / rms(residual_out) * weight, in float inside.
//
// A block is rows_per_tile whole rows, or one row in parts of columns_per_tile. Its sums stay in the unified
// buffer as float until the row's norm is known; the inputs of the next part arrive meanwhile.
#pragma once

#include "../order.h"
#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

// x, residual, y, residual_out: T [T, H]; weight: T [H].
template <typename T>
class AddRmsNorm {
 public:
  __aicore__ inline AddRmsNorm(AscendC::TPipe* pipe, const AddRmsNormTiling& tiling)
      : pipe_(pipe), tiling_(tiling) {
    num_parts_ = (tiling_.stride + tiling_.columns_per_tile - 1) / tiling_.columns_per_tile;
    first_row_ = AscendC::GetBlockIdx() * tiling_.rows_per_core;
    const uint32_t last = first_row_ + tiling_.rows_per_core;
    end_row_ = last < tiling_.num_rows ? last : tiling_.num_rows;
  }

  __aicore__ inline void Process(GM_ADDR y, GM_ADDR residual_out, GM_ADDR x, GM_ADDR residual, GM_ADDR weight) {
    const uint64_t num_elements = static_cast<uint64_t>(tiling_.num_rows) * tiling_.width;
    y_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y), num_elements);
    residual_out_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(residual_out), num_elements);
    x_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), num_elements);
    residual_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(residual), num_elements);
    weight_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(weight), tiling_.width);
    if (first_row_ >= end_row_) return;
    InitBuffers();
    LoadWeight();
    CopyIn(first_row_, 0);
    for (uint32_t row = first_row_; row < end_row_; row += tiling_.rows_per_tile) {
      AscendC::Duplicate(slots_, 0.0f, static_cast<int32_t>(NumSlots() * kSlotFloats));
      for (uint32_t part = 0; part < num_parts_; ++part) {
        const bool last_part = part + 1 == num_parts_;
        const uint32_t next_row = last_part ? row + tiling_.rows_per_tile : row;
        if (next_row < end_row_) CopyIn(next_row, last_part ? 0 : part + 1);
        AddPart(row, part);
      }
      RootsOfMeans(row);
      for (uint32_t part = 0; part < num_parts_; ++part) ScalePart(row, part);
      Order<AscendC::HardEvent::S_V>(pipe_);  // the roots are read before the next block zeroes them
    }
  }

 private:
  static constexpr bool kIsFloat = sizeof(T) == sizeof(float);
  static constexpr uint32_t kRepeatFloats = 64;  // what one vector instruction does at a time

  __aicore__ inline uint32_t NumSlots() const { return tiling_.rows_per_tile * num_parts_; }
  __aicore__ inline uint32_t Rows(uint32_t row) const {
    return end_row_ - row < tiling_.rows_per_tile ? end_row_ - row : tiling_.rows_per_tile;
  }
  // elements of H in this part of a row
  __aicore__ inline uint32_t Columns(uint32_t part) const {
    const uint32_t left = tiling_.width - part * tiling_.columns_per_tile;
    return left < tiling_.columns_per_tile ? left : tiling_.columns_per_tile;
  }
  // elements from the first to the last of a tile, the padding between rows included
  __aicore__ inline int32_t Extent(uint32_t row, uint32_t part) const {
    return static_cast<int32_t>(num_parts_ == 1 ? Rows(row) * tiling_.stride : Columns(part));
  }
  __aicore__ inline uint64_t Offset(uint32_t row, uint32_t part) const {
    return static_cast<uint64_t>(row) * tiling_.width + part * tiling_.columns_per_tile;
  }
  // rows in global memory without gaps, in the unified buffer each on a 32-byte block; one block where that is the
  // same
  __aicore__ inline AscendC::DataCopyExtParams Params(uint32_t row, uint32_t part) const {
    const uint32_t bytes = Columns(part) * sizeof(T);
    if (num_parts_ == 1 && tiling_.stride == tiling_.width) return {1, Rows(row) * bytes, 0, 0, 0};
    return {static_cast<uint16_t>(Rows(row)), bytes, 0, 0, 0};
  }

  __aicore__ inline void InitBuffers() {
    const uint32_t tile = tiling_.rows_per_tile * tiling_.columns_per_tile;
    pipe_->InitBuffer(x_queue_, kNumInBuffers, tile * sizeof(T));
    pipe_->InitBuffer(residual_queue_, kNumInBuffers, tile * sizeof(T));
    pipe_->InitBuffer(out_queue_, kNumOutBuffers, tile * sizeof(T));
    pipe_->InitBuffer(work_buffer_, tile * sizeof(float));
    pipe_->InitBuffer(sum_buffer_, tiling_.rows_per_tile * tiling_.stride * sizeof(float));
    pipe_->InitBuffer(weight_buffer_, tiling_.stride * sizeof(float));
    pipe_->InitBuffer(slot_buffer_, NumSlots() * kSlotFloats * sizeof(float));
    pipe_->InitBuffer(partial_buffer_, kSlotFloats * sizeof(float));
    work_ = work_buffer_.template Get<float>();
    sum_ = sum_buffer_.template Get<float>();
    weights_ = weight_buffer_.template Get<float>();
    slots_ = slot_buffer_.template Get<float>();
  }

  __aicore__ inline void ToFloat(const AscendC::LocalTensor<float>& to, const AscendC::LocalTensor<T>& from,
                                 int32_t n) {
    if constexpr (kIsFloat) {
      AscendC::Muls(to, from, 1.0f, n);
    } else {
      AscendC::Cast(to, from, AscendC::RoundMode::CAST_NONE, n);
    }
  }

  __aicore__ inline void FromFloat(const AscendC::LocalTensor<T>& to, const AscendC::LocalTensor<float>& from,
                                   int32_t n) {
    if constexpr (kIsFloat) {
      AscendC::Muls(to, from, 1.0f, n);
    } else {
      AscendC::Cast(to, from, AscendC::RoundMode::CAST_RINT, n);
    }
  }

  __aicore__ inline void LoadWeight() {
    for (uint32_t part = 0; part < num_parts_; ++part) {
      AscendC::LocalTensor<T> tile = x_queue_.template AllocTensor<T>();
      const AscendC::DataCopyExtParams params{1, static_cast<uint32_t>(Columns(part) * sizeof(T)), 0, 0, 0};
      const AscendC::DataCopyPadExtParams<T> no_padding{false, 0, 0, static_cast<T>(0.0f)};
      AscendC::DataCopyPad(tile, weight_[part * tiling_.columns_per_tile], params, no_padding);
      x_queue_.EnQue(tile);
      tile = x_queue_.template DeQue<T>();
      ToFloat(weights_[part * tiling_.columns_per_tile], tile, static_cast<int32_t>(Columns(part)));
      x_queue_.FreeTensor(tile);
    }
  }

  __aicore__ inline void CopyIn(uint32_t row, uint32_t part) {
    const uint8_t gap = num_parts_ == 1 ? static_cast<uint8_t>(tiling_.stride - tiling_.width) : 0;
    const AscendC::DataCopyPadExtParams<T> zeros{gap != 0, 0, gap, static_cast<T>(0.0f)};
    AscendC::LocalTensor<T> x = x_queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(x, x_[Offset(row, part)], Params(row, part), zeros);
    x_queue_.EnQue(x);
    AscendC::LocalTensor<T> residual = residual_queue_.template AllocTensor<T>();
    AscendC::DataCopyPad(residual, residual_[Offset(row, part)], Params(row, part), zeros);
    residual_queue_.EnQue(residual);
  }

  __aicore__ inline void CopyOut(const AscendC::GlobalTensor<T>& to, uint32_t row, uint32_t part) {
    AscendC::LocalTensor<T> out = out_queue_.template DeQue<T>();
    AscendC::DataCopyPad(to[Offset(row, part)], out, Params(row, part));
    out_queue_.FreeTensor(out);
  }

  // sum = x + residual, residual_out, and the sum of squares of each row of the part
  __aicore__ inline void AddPart(uint32_t row, uint32_t part) {
    const int32_t n = Extent(row, part);
    const AscendC::LocalTensor<float> sum = sum_[part * tiling_.columns_per_tile];
    AscendC::LocalTensor<T> x = x_queue_.template DeQue<T>();
    AscendC::LocalTensor<T> residual = residual_queue_.template DeQue<T>();
    ToFloat(work_, x, n);
    ToFloat(sum, residual, n);
    x_queue_.FreeTensor(x);
    residual_queue_.FreeTensor(residual);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(sum, sum, work_, n);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::LocalTensor<T> out = out_queue_.template AllocTensor<T>();
    FromFloat(out, sum, n);
    out_queue_.EnQue(out);
    CopyOut(residual_out_, row, part);
    AscendC::Mul(work_, sum, sum, n);
    AddSquares(row, part);
  }

  // Halves the rows until one repeat is left of each: a tree, so the rounding error grows with log H alone.
  __aicore__ inline void AddSquares(uint32_t row, uint32_t part) {
    uint32_t left = Columns(part);
    while (left > kRepeatFloats) {
      const uint32_t kept = ((left + 1) / 2 + kSlotFloats - 1) / kSlotFloats * kSlotFloats;
      AscendC::PipeBarrier<PIPE_V>();
      for (uint32_t r = 0; r < Rows(row); ++r) {
        const AscendC::LocalTensor<float> squares = work_[r * tiling_.stride];
        AscendC::Add(squares, squares, squares[kept], static_cast<int32_t>(left - kept));
      }
      left = kept;
    }
    const AscendC::LocalTensor<float> partial = partial_buffer_.template Get<float>();
    for (uint32_t r = 0; r < Rows(row); ++r) {
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::ReduceSum(slots_[(r * num_parts_ + part) * kSlotFloats], work_[r * tiling_.stride], partial,
                         static_cast<int32_t>(left));
    }
    AscendC::PipeBarrier<PIPE_V>();
  }

  // slot r, lane 0: sqrt(mean of squares + epsilon) of row r
  __aicore__ inline void RootsOfMeans(uint32_t row) {
    Order<AscendC::HardEvent::V_S>(pipe_);
    for (uint32_t r = 0; r < Rows(row); ++r) {
      float sum = 0.0f;
      for (uint32_t part = 0; part < num_parts_; ++part)
        sum += slots_.GetValue((r * num_parts_ + part) * kSlotFloats);
      slots_.SetValue(r * kSlotFloats, sum / static_cast<float>(tiling_.width) + tiling_.epsilon);
    }
    Order<AscendC::HardEvent::S_V>(pipe_);
    AscendC::Sqrt(slots_, slots_, static_cast<int32_t>(tiling_.rows_per_tile * kSlotFloats));
    Order<AscendC::HardEvent::V_S>(pipe_);
  }

  // work = sum / root of row r. A float result shows each rounding, so it gets a true division.
  __aicore__ inline void Divide(uint32_t r, uint32_t first, int32_t columns) {
    const AscendC::LocalTensor<float> quotient = work_[r * tiling_.stride], sum = sum_[r * tiling_.stride + first];
    const float root = slots_.GetValue(r * kSlotFloats);
    if constexpr (kIsFloat) {
      AscendC::Duplicate(quotient, root, columns);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Div(quotient, sum, quotient, columns);
    } else {
      AscendC::Muls(quotient, sum, 1.0f / root, columns);
    }
  }

  __aicore__ inline void ScalePart(uint32_t row, uint32_t part) {
    const int32_t columns = static_cast<int32_t>(Columns(part));
    const uint32_t first = part * tiling_.columns_per_tile;
    for (uint32_t r = 0; r < Rows(row); ++r) Divide(r, first, columns);
    AscendC::PipeBarrier<PIPE_V>();
    for (uint32_t r = 0; r < Rows(row); ++r) {
      const AscendC::LocalTensor<float> product = work_[r * tiling_.stride];
      AscendC::Mul(product, product, weights_[first], columns);
    }
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::LocalTensor<T> out = out_queue_.template AllocTensor<T>();
    FromFloat(out, work_, Extent(row, part));
    out_queue_.EnQue(out);
    CopyOut(y_, row, part);
    AscendC::PipeBarrier<PIPE_V>();
  }

  AscendC::TPipe* pipe_;
  AddRmsNormTiling tiling_;
  uint32_t num_parts_, first_row_, end_row_;
  AscendC::GlobalTensor<T> y_, residual_out_, x_, residual_, weight_;
  AscendC::TQue<AscendC::TPosition::VECIN, kNumInBuffers> x_queue_, residual_queue_;
  AscendC::TQue<AscendC::TPosition::VECOUT, kNumOutBuffers> out_queue_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> work_buffer_, sum_buffer_, weight_buffer_, slot_buffer_,
      partial_buffer_;
  AscendC::LocalTensor<float> work_, sum_, weights_, slots_;
};

}  // namespace ascend_ext

#define ASCEND_EXT_ADD_RMS_NORM(NAME, TYPE)                                                                \
  extern "C" __global__ __vector__ void NAME(GM_ADDR y, GM_ADDR residual_out, GM_ADDR x, GM_ADDR residual, \
                                             GM_ADDR weight, ascend_ext::AddRmsNormTiling tiling) {        \
    AscendC::TPipe pipe;                                                                                   \
    ascend_ext::AddRmsNorm<TYPE>(&pipe, tiling).Process(y, residual_out, x, residual, weight);             \
  }

ASCEND_EXT_ADD_RMS_NORM(add_rms_norm_half, half)
ASCEND_EXT_ADD_RMS_NORM(add_rms_norm_bfloat16, bfloat16_t)
ASCEND_EXT_ADD_RMS_NORM(add_rms_norm_float, float)
