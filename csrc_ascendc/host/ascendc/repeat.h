// SPDX-License-Identifier: Apache-2.0
// AscendC's vector instructions by repeats of eight blocks of 32 bytes (level 0), as far as our kernels use them:
// with all lanes of a repeat.
#pragma once

#include "vector.h"

namespace AscendC {

// Strides in blocks: from block to block of a repeat, and from repeat to repeat. A source may have strides of 0.
struct BinaryRepeatParams {
  uint8_t dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1;
  uint8_t dstRepStride = 8, src0RepStride = 8, src1RepStride = 8;

  BinaryRepeatParams() = default;
  BinaryRepeatParams(uint8_t dst_block, uint8_t src0_block, uint8_t src1_block, uint8_t dst_repeat,
                     uint8_t src0_repeat, uint8_t src1_repeat)
      : dstBlkStride(dst_block),
        src0BlkStride(src0_block),
        src1BlkStride(src1_block),
        dstRepStride(dst_repeat),
        src0RepStride(src0_repeat),
        src1RepStride(src1_repeat) {}
};

namespace vector {

constexpr int32_t kBlocks = 8, kMaxRepeats = 255;

inline void CheckRepeats(int64_t repeats, int64_t mask, int64_t lanes, Here here) {
  if (repeats < 1 || repeats > kMaxRepeats) {
    ascendc_host::Fail("repeat-time", here, Text("%lld repeats: 1 to 255 work", static_cast<long long>(repeats)));
  }
  if (mask != lanes) {
    ascendc_host::Fail("repeat-mask", here,
                       Text("a mask of %lld; the emulation knows that of all %lld lanes",
                            static_cast<long long>(mask), static_cast<long long>(lanes)));
  }
}

// One operand of `repeats` times eight blocks.
struct Strided {
  uint32_t offset, block, repeat, bytes;
  template <typename T>
  Strided(const LocalTensor<T>& tensor, uint8_t block_stride, uint8_t repeat_stride, int32_t repeats, Here here)
      : offset(tensor.offset()),
        block(block_stride * ascendc_host::kBlock),
        repeat(repeat_stride * ascendc_host::kBlock),
        bytes((repeats - 1) * repeat + (kBlocks - 1) * block + ascendc_host::kBlock) {
    tensor.RequireAligned(here);
    tensor.Require(bytes, here);
  }
  uint32_t At(int32_t index) const { return offset + index / kBlocks * repeat + index % kBlocks * block; }
};

// Apart, or the same blocks in the same order.
inline void CheckOverlap(const Strided& dst, const Strided& src, Here here) {
  const bool apart = dst.offset + dst.bytes <= src.offset || src.offset + src.bytes <= dst.offset;
  const bool same = dst.offset == src.offset && dst.block == src.block && dst.repeat == src.repeat;
  if (!apart && !same) ascendc_host::Fail("vector-overlap", here, "destination and source overlap in part");
}

}  // namespace vector

// repeatTime is a uint8_t there: wider here, so that 256 is found.
template <typename T>
void And(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask,
         int32_t repeatTime, const BinaryRepeatParams& strides, ASCENDC_HERE) {
  static_assert(vector::kOneOf<T, int16_t, uint16_t>, "And: unsupported data type");
  vector::CheckRepeats(repeatTime, static_cast<int64_t>(mask), 256 / sizeof(T), here);
  if (strides.dstBlkStride == 0) {
    ascendc_host::Fail("repeat-stride", here, "a destination whose blocks are one and the same");
  }
  const vector::Strided to(dst, strides.dstBlkStride, strides.dstRepStride, repeatTime, here);
  const vector::Strided a(src0, strides.src0BlkStride, strides.src0RepStride, repeatTime, here);
  const vector::Strided b(src1, strides.src1BlkStride, strides.src1RepStride, repeatTime, here);
  vector::CheckOverlap(to, a, here);
  vector::CheckOverlap(to, b, here);
  Core& core = Core::Current();
  const auto now = core.Begin(ascendc_host::kVector, here);
  const int32_t num_blocks = repeatTime * vector::kBlocks;
  core.statistics.vector_cycles += ascendc_host::kStartUpCycles;
  for (int32_t r = 0; r < repeatTime; ++r) {
    ascendc_host::RepeatCycles banks;
    for (int32_t i = r * vector::kBlocks; i < (r + 1) * vector::kBlocks; ++i) {
      core.TouchUb(now, to.At(i), ascendc_host::kBlock, true);
      core.TouchUb(now, a.At(i), ascendc_host::kBlock, false);
      core.TouchUb(now, b.At(i), ascendc_host::kBlock, false);
      banks.Read(a.At(i));
      banks.Read(b.At(i));
      banks.Write(to.At(i));
    }
    core.statistics.vector_cycles += banks.Cycles();
  }
  ++core.statistics.vector_instructions;
  core.statistics.vector_repeats += repeatTime;
  core.Issue(ascendc_host::kVector, [&core, to, a, b, num_blocks, here] {
    for (int32_t i = 0; i < num_blocks; ++i) {
      core.RequireInitialised(a.At(i), ascendc_host::kBlock, here);
      core.RequireInitialised(b.At(i), ascendc_host::kBlock, here);
      uint8_t *out = core.Bytes(to.At(i)), *x = core.Bytes(a.At(i)), *y = core.Bytes(b.At(i));
      for (uint32_t byte = 0; byte < ascendc_host::kBlock; ++byte) out[byte] = x[byte] & y[byte];
      core.MarkInitialised(to.At(i), ascendc_host::kBlock);
    }
  });
}

namespace vector {

// Sums of `width` neighbours each, by a binary tree; source and results without gaps.
template <int32_t width, typename T>
void SumNeighbours(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t repeats, int32_t mask,
                   bool contiguous, Here here) {
  CheckRepeats(repeats, mask, 256 / sizeof(T), here);
  if (!contiguous)
    ascendc_host::Fail("repeat-stride", here, "the emulation sums without gaps: strides of 1, 1 and 8");
  const int32_t num_sums = repeats * mask / width;
  Instruct({dst, num_sums, here}, {{src, repeats * mask, here}}, here, [=](Core& core) {
    T* sums = At(core, dst);
    const T* values = At(core, src);
    for (int32_t i = 0; i < num_sums; ++i) {
      T tree[width];
      std::copy_n(values + i * width, width, tree);
      for (int32_t left = width / 2; left > 0; left /= 2) {
        for (int32_t j = 0; j < left; ++j) tree[j] = Compute(tree[2 * j], tree[2 * j + 1], std::plus<>());
      }
      sums[i] = tree[0];
    }
  });
}

}  // namespace vector

// The sum of each block of 32 bytes.
template <typename T>
void BlockReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime,
                    const int32_t mask, const int32_t dstRepStride, const int32_t srcBlkStride,
                    const int32_t srcRepStride, ASCENDC_HERE) {
  static_assert(vector::kReal<T>, "BlockReduceSum: unsupported data type");
  const bool contiguous = dstRepStride == 1 && srcBlkStride == 1 && srcRepStride == vector::kBlocks;
  vector::SumNeighbours<ascendc_host::kBlock / sizeof(T)>(dst, src, repeatTime, mask, contiguous, here);
}

// a[0] + a[1], a[2] + a[3], ...
template <typename T>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime,
                   const int32_t mask, const int32_t dstRepStride, const int32_t srcBlkStride,
                   const int32_t srcRepStride, ASCENDC_HERE) {
  static_assert(vector::kReal<T>, "PairReduceSum: unsupported data type");
  const bool contiguous = dstRepStride == 1 && srcBlkStride == 1 && srcRepStride == vector::kBlocks;
  vector::SumNeighbours<2>(dst, src, repeatTime, mask, contiguous, here);
}

}  // namespace AscendC
