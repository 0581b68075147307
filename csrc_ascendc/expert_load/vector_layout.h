// SPDX-License-Identifier: Apache-2.0
// What lies where in the unified buffer while the vector unit counts (vector_counts.h): addresses in bytes,
// histogram first. The places do not change what is counted but what it costs: an instruction takes another cycle
// a repeat where two blocks that it reads lie in one group of banks, or what it writes in a bank that it reads.
//
// A group is the block's number modulo 16, a bank also the number of 64 KB. So masks, rows and slices lie in the
// first 64 KB and what is made from them does not; the rows of a slice are twice an odd number of blocks apart and
// start on an even block, those of upper digits an even number and start on an odd one; nibbles are half of the
// groups away from the products that are added to them.
#pragma once

#include "../tiling.h"

namespace ascend_ext {

// Up to this many experts the vector unit counts, a batch of ids at a time; beyond, and slower, the scalar unit
// counts one id after the other.
constexpr uint32_t kMaxVectorExperts = 512;
constexpr uint32_t kBatchIds = 4096;
constexpr uint32_t kGroupIds = 256;  // as many as the bits of a block of 32 bytes
constexpr uint32_t kDigits = 8;      // an expert is three octal digits
constexpr uint32_t kBlocks = 8;      // of a repeat
constexpr uint32_t kRepeatBytes = kBlocks * kBlockBytes;
constexpr uint32_t kMaxRow = kBatchIds / kGroupIds;  // blocks of a row of bits
constexpr uint32_t kBlockLanes = kBlockBytes / sizeof(uint16_t);

constexpr uint32_t kLowNibblesAt = kMaxVectorExperts * sizeof(int32_t);
constexpr uint32_t kLowNibbleLanes = 2 * kBlocks * kBlockLanes;  // a block in every group
constexpr uint32_t kLowBitsAt = kLowNibblesAt + kLowNibbleLanes * sizeof(uint16_t);
constexpr uint32_t kDigitMasksAt = kLowBitsAt + kBlockBytes;
constexpr uint32_t kUpperDigitsAt = 6 * kLineBytes;
constexpr uint32_t kUpperDigitsBytes = 2 * kDigits * kMaxRow * kBlockBytes;
constexpr uint32_t kSliceAt = kUpperDigitsAt + kUpperDigitsBytes;
constexpr uint32_t kSliceBytes = kDigits * (kMaxRow + 2) * kBlockBytes;
// rows of the last digit, then of the upper ones together
constexpr uint32_t kLastRowsAt = kSliceAt + kSliceBytes + kBlockBytes;
constexpr uint32_t kLastRowsEnd = kLastRowsAt + kSliceBytes + kMaxVectorExperts / kDigits * kMaxRow * kBlockBytes;
constexpr uint32_t kNumbersAt = RoundUp(kLastRowsEnd, kLineBytes);
constexpr uint32_t kSumsAt = kNumbersAt + kBatchIds * sizeof(int16_t);
// of bytes, once nothing needs the numbers
constexpr uint32_t kRealSumsAt = kNumbersAt;
constexpr uint32_t kPairSumsAt = kRealSumsAt + 2 * kMaxVectorExperts * sizeof(float);
constexpr uint32_t kCountsAt = kPairSumsAt + kMaxVectorExperts * sizeof(float);
constexpr uint32_t kBankBytes = 65536;  // of one bank in every group
constexpr uint32_t kProductsAt = kBankBytes;
constexpr uint32_t kSlotLanes = 1280;  // of all slots together, at most
constexpr uint32_t kNibblesAt = kProductsAt + kSlotLanes * kBlockBytes + kRepeatBytes;
// the histogram and all of this
constexpr uint32_t kVectorBytes = kNibblesAt + kSlotLanes * kBlockBytes;

static_assert(kDigitMasksAt + 3 * kBlockBytes <= kUpperDigitsAt && kSliceAt % kLineBytes == 0);
static_assert(kSumsAt + 2 * kMaxVectorExperts * sizeof(uint16_t) <= kProductsAt);
static_assert(kCountsAt + kMaxVectorExperts * sizeof(int32_t) <= kSumsAt);
static_assert(kBatchIds * (sizeof(float) + sizeof(int16_t)) <= kSlotLanes * kBlockBytes);  // reals and digits

// How many products stand side by side, and how many of such rounds are added up in nibbles. Two nibbles of each
// make a byte's sum in the end, without a sign.
constexpr uint32_t VectorSlots(uint32_t lanes) { return kSlotLanes / lanes < 9 ? kSlotLanes / lanes : 9; }
constexpr uint32_t VectorRounds(uint32_t slots) { return 63 / slots < 15 ? 63 / slots : 15; }

}  // namespace ascend_ext
