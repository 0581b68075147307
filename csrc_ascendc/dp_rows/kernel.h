// SPDX-License-Identifier: Apache-2.0
// dp_pad and dp_unpad: each core writes its own bytes of the output once, copied rows and zeros alike.
#pragma once

#include "../order.h"
#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

class DpRows {
 public:
  __aicore__ inline DpRows(AscendC::TPipe* pipe, const DpRowsTiling& tiling) : pipe_(pipe), tiling_(tiling) {}

  __aicore__ inline void Process(GM_ADDR out, GM_ADDR in) {
    out_.SetGlobalBuffer(out, tiling_.out_bytes);
    in_.SetGlobalBuffer(in, tiling_.copy_end - tiling_.copy_begin);
    const uint64_t begin = AscendC::GetBlockIdx() * tiling_.bytes_per_core;
    const uint64_t end = Min(begin + tiling_.bytes_per_core, tiling_.out_bytes);
    const uint64_t copy_begin = Min(Max(begin, tiling_.copy_begin), end);
    const uint64_t copy_end = Max(Min(end, tiling_.copy_end), copy_begin);
    if (begin < copy_begin || copy_end < end) PrepareZeros();
    WriteZeros(begin, copy_begin);
    CopyRows(copy_begin, copy_end);
    WriteZeros(copy_end, end);
  }

 private:
  static __aicore__ inline uint64_t Min(uint64_t a, uint64_t b) { return a < b ? a : b; }
  static __aicore__ inline uint64_t Max(uint64_t a, uint64_t b) { return a < b ? b : a; }

  // where the copy that starts at `at` ends: at a multiple of the tile, so that the next one starts aligned
  static __aicore__ inline uint64_t TileEnd(uint64_t at, uint64_t tile_bytes, uint64_t end) {
    return Min((at / tile_bytes + 1) * tile_bytes, end);
  }

  static __aicore__ inline AscendC::DataCopyExtParams OneBlock(uint64_t bytes) {
    return {1, static_cast<uint32_t>(bytes), 0, 0, 0};
  }

  __aicore__ inline void PrepareZeros() {
    pipe_->InitBuffer(zero_buffer_, kZeroTileBytes);
    AscendC::Duplicate(zero_buffer_.Get<int32_t>(), 0, static_cast<int32_t>(kZeroTileBytes / sizeof(int32_t)));
    Order<AscendC::HardEvent::V_MTE3>(pipe_);
  }

  __aicore__ inline void WriteZeros(uint64_t begin, uint64_t end) {
    for (uint64_t at = begin; at < end;) {
      const uint64_t next = TileEnd(at, kZeroTileBytes, end);
      AscendC::DataCopyPad(out_[at], zero_buffer_.Get<uint8_t>(), OneBlock(next - at));
      at = next;
    }
  }

  __aicore__ inline void CopyRows(uint64_t begin, uint64_t end) {
    if (begin >= end) return;
    pipe_->InitBuffer(rows_, 2, kRowTileBytes);
    const AscendC::DataCopyPadExtParams<uint8_t> no_padding{false, 0, 0, 0};
    for (uint64_t at = begin; at < end;) {
      const uint64_t next = TileEnd(at, kRowTileBytes, end);
      AscendC::LocalTensor<uint8_t> tile = rows_.AllocTensor<uint8_t>();
      AscendC::DataCopyPad(tile, in_[at - tiling_.copy_begin], OneBlock(next - at), no_padding);
      rows_.EnQue(tile);
      tile = rows_.DeQue<uint8_t>();
      AscendC::DataCopyPad(out_[at], tile, OneBlock(next - at));
      rows_.FreeTensor(tile);
      at = next;
    }
  }

  AscendC::TPipe* pipe_;
  DpRowsTiling tiling_;
  AscendC::GlobalTensor<uint8_t> out_, in_;
  AscendC::TBuf<AscendC::TPosition::VECCALC> zero_buffer_;
  AscendC::TQueBind<AscendC::TPosition::VECIN, AscendC::TPosition::VECOUT, 1> rows_;
};

}  // namespace ascend_ext

extern "C" __global__ __vector__ void dp_rows(GM_ADDR out, GM_ADDR in, ascend_ext::DpRowsTiling tiling) {
  AscendC::TPipe pipe;
  ascend_ext::DpRows(&pipe, tiling).Process(out, in);
}
