// SPDX-License-Identifier: Apache-2.0
// Counts the experts of ids that lie in the unified buffer, with the vector unit alone.
#pragma once

#include "../renamed.h"
#include "kernel_operator.h"
#include "tiling.h"
#include "vector_layout.h"

namespace ascend_ext {

// Counts up to kBatchIds ids at a time, and none of them by itself. An id becomes a half whose mantissa has its
// bits, and comparing the bits of one octal digit with each value of it gives rows of bits that tell which ids
// have it. The AND of a row of each digit tells which ids are one expert; an instruction finds it for all experts
// and a group of ids. The ones are counted by adding fields of growing width: every fourth bit in nibbles, nibbles
// in bytes, bytes in half. Fields stay below half their range: no sum reaches a sign, so it does not matter
// whether integers wrap or saturate.
//
// An instruction costs its start-up, so several products of a group stand side by side in slots and are added
// together; and its repeats, which are longer where operands share banks, so vector_layout.h says what lies where.
template <typename Id>
class VectorCounts {
 public:
  // histogram: int32, `lanes` counters of any value, which Finish replaces. At least one Count comes before that.
  __aicore__ inline void Init(AscendC::TPipe* pipe, const ExpertLoadTiling& tiling,
                              const AscendC::LocalTensor<int32_t>& histogram) {
    lanes_ = tiling.lanes;
    row_ = kMaxRow;
    num_slots_ = VectorSlots(lanes_);
    max_rounds_ = VectorRounds(num_slots_);
    histogram_ = histogram;
    pipe->InitBuffer(buffer_, kVectorBytes - tiling.histogram_bytes);
    memory_ = buffer_.template Get<uint8_t>();
    offset_ = tiling.histogram_bytes;
    low_bits_ = At<uint16_t>(kLowBitsAt);
    low_nibbles_ = At<uint16_t>(kLowNibblesAt);
    numbers_ = At<int16_t>(kNumbersAt);
    reals_ = At<float>(kProductsAt);
    digit_ = At<int16_t>(kProductsAt + kBatchIds * sizeof(float));
    slice_ = At<uint16_t>(kSliceAt);
    products_ = At<uint16_t>(kProductsAt);
    nibbles_ = At<uint16_t>(kNibblesAt);

    AscendC::Duplicate(low_bits_, uint16_t(0x1111), static_cast<int32_t>(kBlockLanes));
    AscendC::Duplicate(low_nibbles_, uint16_t(0x0f0f), static_cast<int32_t>(kLowNibbleLanes));
    for (uint32_t place = 0; place < kPlaces; ++place) {
      AscendC::Duplicate(Mask(place), static_cast<int16_t>(kNotMantissa | DigitBits(place)),
                         static_cast<int32_t>(kBlockLanes));
    }
    // no Compare writes the gaps between these rows
    AscendC::Duplicate(LastRow(0), uint16_t(0), static_cast<int32_t>(kSliceBytes / sizeof(uint16_t)));
    // before the first use of these come the barriers of ReadIds
  }

  // ids: 1 .. kBatchIds of them.
  __aicore__ inline void Count(const AscendC::LocalTensor<Id>& ids, uint32_t num_ids) {
    num_groups_ = (num_ids + kGroupIds - 1) / kGroupIds;
    row_ = num_groups_ <= kBlocks ? kBlocks : 2 * kBlocks;
    all_ids_ = static_cast<int32_t>(num_groups_ * kGroupIds);
    ReadIds(ids, num_ids);
    CompareDigits();
    CombineUpperDigits();
    const int32_t last_rows = static_cast<int32_t>((kDigits * SlicePitch() + NumUpper() * row_) * kBlockLanes);
    for (uint32_t bit = 0; bit < kNibbleBits; ++bit) {
      And(slice_, LastRow(0), low_bits_, SlicePitch(), {1, 1, 0, kBlocks, kBlocks, 0});
      AscendC::PipeBarrier<PIPE_V>();
      for (uint32_t group = 0; group < num_groups_; ++group) AddProducts(group);
      if (bit + 1 == kNibbleBits) break;
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::ShiftRight(LastRow(0), LastRow(0), uint16_t(1), last_rows);  // and the upper digits, beside them
      AscendC::PipeBarrier<PIPE_V>();
    }
    if (num_rounds_ != 0) AddRound();  // the next batch's ids take the place of products, not of nibbles
  }

  // Nothing is counted afterwards.
  __aicore__ inline void Finish() {
    AddRound();
    if (num_rounds_ != 0) AddToHistogram();
  }

 private:
  static constexpr uint32_t kPlaces = 3, kNibbleBits = 4, kUnsignedRounds = 7;
  static constexpr int32_t kLowest = -2147483647 - 1;
  // half 1024 has the bits 0x6400, and 1024 + id the id in its mantissa
  static constexpr uint16_t kHalf1024 = 0x6400, kNotMantissa = 0xfc00;

  template <typename T>
  __aicore__ inline AscendC::LocalTensor<T> At(uint32_t address) {
    const AscendC::LocalTensor<uint8_t> rest = memory_[address - offset_];
    return rest.template ReinterpretCast<T>();
  }

  // The digits of an id: place 0 is e % 8, 1 is e / 8 % 8 and 2 all the rest, which no id beyond the experts has
  static __aicore__ inline uint16_t DigitBits(uint32_t place) {
    return place == 0 ? 0x007 : place == 1 ? 0x038 : 0x3c0;
  }

  __aicore__ inline AscendC::LocalTensor<int16_t> Mask(uint32_t place) {
    return At<int16_t>(kDigitMasksAt + place * kBlockBytes);
  }
  // Blocks from row to row of the last digit, and of its slice: twice an odd number, see vector_layout.h.
  __aicore__ inline uint8_t SlicePitch() const { return static_cast<uint8_t>(row_ + 2); }
  __aicore__ inline uint32_t NumUpper() const { return lanes_ / kDigits; }

  __aicore__ inline AscendC::LocalTensor<uint16_t> LastRow(uint32_t value) {
    return At<uint16_t>(kLastRowsAt + value * SlicePitch() * kBlockBytes);
  }
  // Of the middle digit 0 .. 7, then of the first one.
  __aicore__ inline AscendC::LocalTensor<uint16_t> UpperDigitRow(uint32_t index) {
    return At<uint16_t>(kUpperDigitsAt + index * row_ * kBlockBytes);
  }
  __aicore__ inline AscendC::LocalTensor<uint16_t> Upper(uint32_t index, uint32_t group) {
    return At<uint16_t>(kLastRowsAt + (kDigits * SlicePitch() + index * row_ + group) * kBlockBytes);
  }
  __aicore__ inline AscendC::LocalTensor<uint16_t> Slot(const AscendC::LocalTensor<uint16_t>& slots,
                                                        uint32_t slot) {
    return slots[slot * lanes_ * kBlockLanes];
  }

  template <typename T>
  static __aicore__ inline void And(const AscendC::LocalTensor<T>& to, const AscendC::LocalTensor<T>& a,
                                    const AscendC::LocalTensor<T>& b, uint32_t repeats,
                                    const AscendC::BinaryRepeatParams& strides) {
    AscendC::And(to, a, b, static_cast<uint64_t>(kRepeatBytes / sizeof(T)), repeats, strides);
  }

  // Four fields of a byte, or eight of a nibble, by one addition; of `slots` slots.
  __aicore__ inline void AddFields(const AscendC::LocalTensor<uint16_t>& to,
                                   const AscendC::LocalTensor<uint16_t>& more, uint32_t slots) {
    const AscendC::LocalTensor<int32_t> sum = to.template ReinterpretCast<int32_t>();
    AscendC::Add(sum, sum, more.template ReinterpretCast<int32_t>(),
                 static_cast<int32_t>(slots * lanes_ * kBlockBytes / sizeof(int32_t)));
  }

  // The halves 1024 + id, as integers. What is no id below 1024 gets another exponent or sign, whether the
  // addition wraps or saturates, and so do lanes beyond the ids.
  __aicore__ inline void ReadIds(const AscendC::LocalTensor<Id>& ids, uint32_t num_ids) {
    if (num_ids != static_cast<uint32_t>(all_ids_)) {
      AscendC::Duplicate(reals_, -1.0f, all_ids_);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Cast(reals_, ids, AscendC::RoundMode::CAST_RINT, num_ids);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(numbers_, reals_, AscendC::RoundMode::CAST_RINT, static_cast<uint32_t>(all_ids_));
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Adds(numbers_, numbers_, static_cast<int16_t>(kHalf1024), all_ids_);
    AscendC::PipeBarrier<PIPE_V>();
  }

  __aicore__ inline void CompareDigits() {
    if (num_groups_ != row_ && filled_row_ < row_) {  // what instructions on whole repeats read, and nobody uses
      AscendC::Duplicate(UpperDigitRow(0), uint16_t(0), static_cast<int32_t>(2 * kDigits * row_ * kBlockLanes));
      filled_row_ = row_;
    }
    for (uint32_t place = 0; place < kPlaces; ++place) {
      And(digit_, numbers_, Mask(place), num_groups_ * 2, {1, 1, 0, kBlocks, kBlocks, 0});
      AscendC::PipeBarrier<PIPE_V>();
      const uint32_t num_values = place == 2 ? lanes_ / kDigits / kDigits : kDigits;
      for (uint32_t value = 0; value < num_values; ++value) {
        const AscendC::LocalTensor<uint16_t> row =
            place == 0 ? LastRow(value) : UpperDigitRow((place - 1) * kDigits + value);
        const half known = static_cast<half>(static_cast<float>(1024 + (value << (3 * place))));
        EqualsScalar(row.template ReinterpretCast<uint8_t>(), digit_.template ReinterpretCast<half>(), known,
                     static_cast<uint32_t>(all_ids_));
      }
      AscendC::PipeBarrier<PIPE_V>();
    }
  }

  // Rows of each pair of the first two digits.
  __aicore__ inline void CombineUpperDigits() {
    const uint8_t row = static_cast<uint8_t>(row_);
    for (uint32_t first = 0; first < NumUpper() / kDigits; ++first) {
      for (uint32_t part = 0; part < row_; part += kBlocks) {
        And(Upper(first * kDigits, part), UpperDigitRow(0)[part * kBlockLanes],
            UpperDigitRow(kDigits + first)[part * kBlockLanes], kDigits, {1, 1, 1, row, row, 0});
      }
    }
    // before the first use of these comes the barrier of slice_
  }

  // Every fourth bit of a group's products, for all experts. The first ones of a round of slots need no addition.
  __aicore__ inline void AddProducts(uint32_t group) {
    const AscendC::LocalTensor<uint16_t> slots = num_rounds_ == 0 ? nibbles_ : products_;
    And(Slot(slots, slot_), slice_[group * kBlockLanes], Upper(0, group), NumUpper(),
        {1, SlicePitch(), 0, kBlocks, 0, static_cast<uint8_t>(row_)});
    if (++slot_ == num_slots_) AddRound();
  }

  __aicore__ inline void AddRound() {
    if (slot_ == 0) return;
    AscendC::PipeBarrier<PIPE_V>();
    if (num_rounds_ == 0) {
      used_slots_ = slot_;
    } else {
      if (num_rounds_ == kUnsignedRounds) AddToAll(nibbles_, kLowest);
      AddFields(nibbles_, products_, slot_);
      AscendC::PipeBarrier<PIPE_V>();
    }
    slot_ = 0;
    if (++num_rounds_ == max_rounds_) AddToHistogram();
  }

  // The lower nibbles of all bytes: of even repeats and of odd ones, each with a mask in other banks.
  __aicore__ inline void LowNibbles(const AscendC::LocalTensor<uint16_t>& to, uint32_t slots) {
    for (uint32_t odd = 0; odd < 2; ++odd) {
      const uint32_t from = odd * kBlocks * kBlockLanes;
      And(to[from], nibbles_[from], low_nibbles_[from], slots * lanes_ / kBlocks / 2,
          {1, 1, 0, 2 * kBlocks, 2 * kBlocks, 0});
    }
  }

  // More than seven in the highest nibble would be an overflow: from there on it counts from -8.
  __aicore__ inline void AddToAll(const AscendC::LocalTensor<uint16_t>& fields, int32_t value) {
    const AscendC::LocalTensor<int32_t> numbers = fields.template ReinterpretCast<int32_t>();
    AscendC::Adds(numbers, numbers, value,
                  static_cast<int32_t>(used_slots_ * lanes_ * kBlockBytes / sizeof(int32_t)));
    AscendC::PipeBarrier<PIPE_V>();
  }

  // The first slot of products_ becomes the bytes of all nibbles.
  __aicore__ inline void NibblesToBytes() {
    LowNibbles(products_, used_slots_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(nibbles_, nibbles_, uint16_t(4), static_cast<int32_t>(used_slots_ * lanes_ * kBlockLanes));
    AscendC::PipeBarrier<PIPE_V>();
    if (num_rounds_ > kUnsignedRounds) AddToAll(nibbles_, 8 << 24);  // + 8, modulo 16: the count
    LowNibbles(nibbles_, used_slots_);
    AscendC::PipeBarrier<PIPE_V>();
    AddSlots();
  }

  // products_[0] = the sum of all slots of both arrays, as far as may be across them, whose banks differ.
  __aicore__ inline void AddSlots() {
    const uint32_t half = used_slots_ / 2, last = used_slots_ - 1;
    if (half != 0) {
      AddFields(products_, nibbles_, half);
      AddFields(Slot(nibbles_, half), Slot(products_, half), used_slots_ - half);
      AscendC::PipeBarrier<PIPE_V>();
      AddFields(products_, Slot(nibbles_, half), half);
      AscendC::PipeBarrier<PIPE_V>();
    }
    for (uint32_t slot = 1; slot < half; ++slot) {
      AddFields(used_slots_ % 2 != 0 ? Slot(nibbles_, last) : products_, Slot(products_, slot), 1);
      AscendC::PipeBarrier<PIPE_V>();
    }
    if (used_slots_ % 2 != 0) {
      AddFields(products_, Slot(nibbles_, last), 1);
      AscendC::PipeBarrier<PIPE_V>();
    }
  }

  __aicore__ inline void AddToHistogram() {
    NibblesToBytes();
    const AscendC::LocalTensor<half> halves = At<half>(HalvesAt()), sums = At<half>(kSumsAt);
    const AscendC::LocalTensor<float> reals = At<float>(kRealSumsAt), pairs = At<float>(kPairSumsAt);
    AscendC::Cast(halves, products_.template ReinterpretCast<uint8_t>(), AscendC::RoundMode::CAST_NONE,
                  lanes_ * kBlockBytes);
    AscendC::PipeBarrier<PIPE_V>();
    SumOfBlocks(sums, halves, static_cast<int32_t>(2 * lanes_ / kBlocks));
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(reals, sums, AscendC::RoundMode::CAST_NONE,
                  2 * lanes_);  // two of them may need more than half has
    AscendC::PipeBarrier<PIPE_V>();
    SumOfPairs(pairs, reals, static_cast<int32_t>(2 * lanes_ * sizeof(float) / kRepeatBytes));
    AscendC::PipeBarrier<PIPE_V>();
    if (has_counts_) {
      const AscendC::LocalTensor<int32_t> counts = At<int32_t>(kCountsAt);
      AscendC::Cast(counts, pairs, AscendC::RoundMode::CAST_RINT, lanes_);
      AscendC::PipeBarrier<PIPE_V>();
      AscendC::Add(histogram_, histogram_, counts, static_cast<int32_t>(lanes_));
    } else {
      AscendC::Cast(histogram_, pairs, AscendC::RoundMode::CAST_RINT, lanes_);
    }
    has_counts_ = true;
    num_rounds_ = 0;
  }

  // Over the nibbles, in other banks than products_ where that has room.
  __aicore__ inline uint32_t HalvesAt() const {
    return 2 * kBankBytes + lanes_ * kBlockBytes * sizeof(half) <= kVectorBytes ? 2 * kBankBytes : kNibblesAt;
  }

  uint32_t lanes_ = 0, num_slots_ = 0, max_rounds_ = 0, offset_ = 0;
  uint32_t num_groups_ = 0, row_ = 0,
           filled_row_ = 0;  // of this batch: blocks of a row of bits with and without what fills repeats
  int32_t all_ids_ = 0;      // with those that fill the last group
  // products in slots, not yet added; slots that have nibbles; rounds that these are sums of
  uint32_t slot_ = 0, used_slots_ = 0, num_rounds_ = 0;
  bool has_counts_ = false;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<uint8_t> memory_;
  AscendC::LocalTensor<float> reals_;
  AscendC::LocalTensor<int16_t> numbers_, digit_;
  AscendC::LocalTensor<uint16_t> low_bits_, low_nibbles_, slice_, products_, nibbles_;
  AscendC::LocalTensor<int32_t> histogram_;
};

}  // namespace ascend_ext
