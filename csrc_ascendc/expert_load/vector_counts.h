// SPDX-License-Identifier: Apache-2.0
// Counts the experts of ids that lie in the unified buffer, with the vector unit alone.
#pragma once

#include "kernel_operator.h"
#include "tiling.h"

namespace ascend_ext {

// Counts up to kBatchIds ids at a time, and none of them by itself. Compare turns ids into bits: for each octal
// digit and each of its values a row that tells which ids have it. The AND of a row of each digit tells which ids
// are one expert; an instruction finds it for all experts and a group of ids. The ones are counted by adding
// fields of growing width: every fourth bit in nibbles, nibbles in bytes, bytes in half, which is exact up to
// 2048. Fields stay below half their range: no sum reaches a sign, so it does not matter whether integers wrap or
// saturate.
template <typename Id>
class VectorCounts {
 public:
  // histogram: int32, `lanes` counters. max_ids: in one Count, of all to come.
  __aicore__ inline void Init(AscendC::TPipe* pipe, const ExpertLoadTiling& tiling, int64_t max_ids,
                              const AscendC::LocalTensor<int32_t>& histogram) {
    num_experts_ = tiling.num_experts;
    lanes_ = tiling.lanes;
    histogram_ = histogram;
    pipe->InitBuffer(buffer_, kVectorBytes + lanes_ * kVectorLaneBytes);
    digits_ = Take<half>(kDigits * kBatchIds);
    sevens_ = Take<int16_t>(kRepeatLanes);
    low_bits_ = Take<uint16_t>(kRepeatLanes);
    low_nibbles_ = Take<uint16_t>(kRepeatLanes);
    reals_ = Take<float>(kBatchIds);
    numbers_ = Take<int16_t>(kBatchIds);
    digit_ = Take<int16_t>(kBatchIds);
    real_digit_ = Take<half>(kBatchIds);
    rows_ = Take<uint16_t>(kDigitRows * kNumGroups * kBlockLanes);
    slice_ = Take<uint16_t>(kDigits * kNumGroups * kBlockLanes);
    upper_ = Take<uint16_t>(kNumGroups * UpperLanes());
    products_ = Take<uint16_t>(lanes_ * kBlockLanes);
    nibbles_ = Take<uint16_t>(lanes_ * kBlockLanes);  // beside products_: see AddToHistogram
    bytes_ = Take<uint16_t>(lanes_ * kBlockLanes);
    block_sums_ = Take<half>(2 * lanes_);
    sums_ = Take<half>(lanes_);
    counts_ = Take<int32_t>(lanes_);

    const int32_t num_ids = static_cast<int32_t>(max_ids < kBatchIds ? NumGroups(max_ids) * kGroupIds : kBatchIds);
    for (uint32_t digit = 0; digit < kDigits; ++digit) {
      AscendC::Duplicate(digits_[digit * kBatchIds], static_cast<half>(static_cast<float>(digit)), num_ids);
    }
    AscendC::Duplicate(sevens_, int16_t(7), static_cast<int32_t>(kRepeatLanes));
    AscendC::Duplicate(low_bits_, uint16_t(0x1111), static_cast<int32_t>(kRepeatLanes));
    AscendC::Duplicate(low_nibbles_, uint16_t(0x0f0f), static_cast<int32_t>(kRepeatLanes));
    // before the first use of these come the barriers of ReadIds
  }

  // ids: 1 .. kBatchIds of them.
  __aicore__ inline void Count(const AscendC::LocalTensor<Id>& ids, uint32_t num_ids) {
    num_groups_ = NumGroups(num_ids);
    all_ids_ = static_cast<int32_t>(num_groups_ * kGroupIds);
    ReadIds(ids, num_ids);
    CompareDigits();
    for (uint32_t group = 0; group < num_groups_; ++group) {  // digits m and h
      And(upper_[group * UpperLanes()], Row(1, group), Row(2, group), lanes_ / kDigits / kDigits,
          {1, num_groups_, 0, 8, 0, num_groups_});
    }
    // before the first use of upper_ comes the barrier of slice_
    for (uint32_t bit = 0; bit < kNibbleBits; ++bit) {
      And(slice_, rows_, low_bits_, num_groups_, {1, 1, 1, 8, 8, 0});
      AscendC::PipeBarrier<PIPE_V>();
      for (uint32_t group = 0; group < num_groups_; ++group) AddSlice(group);
      if (bit + 1 == kNibbleBits) break;
      AscendC::ShiftRight(rows_, rows_, uint16_t(1), static_cast<int32_t>(kDigits * num_groups_ * kBlockLanes));
      AscendC::ShiftRight(upper_, upper_, uint16_t(1), static_cast<int32_t>(num_groups_ * UpperLanes()));
      AscendC::PipeBarrier<PIPE_V>();
    }
    if (num_added_ != 0) Widen();
    AddToHistogram();
  }

 private:
  static constexpr uint32_t kBlockLanes = kBlockBytes / sizeof(uint16_t);
  static constexpr uint32_t kRepeatLanes = kRepeatBytes / sizeof(uint16_t);
  static constexpr uint32_t kNibbleBits = 4, kMaxAdded = 7;

  template <typename T>
  __aicore__ inline AscendC::LocalTensor<T> Take(uint32_t count) {
    const AscendC::LocalTensor<uint8_t> rest = buffer_.template Get<uint8_t>()[taken_];
    taken_ += count * sizeof(T);
    return rest.template ReinterpretCast<T>();
  }

  static __aicore__ inline uint8_t NumGroups(int64_t num_ids) {
    return static_cast<uint8_t>((num_ids + kGroupIds - 1) / kGroupIds);
  }

  // Of a group: a row of each pair of digits m and h.
  __aicore__ inline uint32_t UpperLanes() const { return lanes_ / kDigits * kBlockLanes; }

  // The rows of a place, l, m or h, from the block of `group` in the first one.
  __aicore__ inline AscendC::LocalTensor<uint16_t> Row(uint32_t place, uint32_t group) {
    return rows_[(place * kDigits * num_groups_ + group) * kBlockLanes];
  }

  template <typename T>
  static __aicore__ inline void And(const AscendC::LocalTensor<T>& to, const AscendC::LocalTensor<T>& a,
                                    const AscendC::LocalTensor<T>& b, uint32_t repeats,
                                    const AscendC::BinaryRepeatParams& strides) {
    AscendC::And(to, a, b, static_cast<uint64_t>(kRepeatLanes), repeats, strides);
  }

  // Four fields of a byte, or eight of a nibble, by one addition.
  __aicore__ inline void AddFields(const AscendC::LocalTensor<uint16_t>& to,
                                   const AscendC::LocalTensor<uint16_t>& more) {
    const AscendC::LocalTensor<int32_t> sum = to.template ReinterpretCast<int32_t>();
    AscendC::Add(sum, sum, more.template ReinterpretCast<int32_t>(),
                 static_cast<int32_t>(lanes_ * kBlockBytes / sizeof(int32_t)));
  }

  // In float, which has no overflow to care for; what is no expert becomes -1 or E, and so do lanes beyond the
  // ids.
  __aicore__ inline void ReadIds(const AscendC::LocalTensor<Id>& ids, uint32_t num_ids) {
    if (num_ids != num_groups_ * kGroupIds) {
      AscendC::Duplicate(reals_, -1.0f, all_ids_);
      AscendC::PipeBarrier<PIPE_V>();
    }
    AscendC::Cast(reals_, ids, AscendC::RoundMode::CAST_RINT, num_ids);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Maxs(reals_, reals_, -1.0f, all_ids_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Mins(reals_, reals_, static_cast<float>(num_experts_), all_ids_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(numbers_, reals_, AscendC::RoundMode::CAST_RINT, static_cast<uint32_t>(all_ids_));
    AscendC::PipeBarrier<PIPE_V>();
  }

  // -1 has no row of the last place, and E has none or that of a lane beyond the experts.
  __aicore__ inline void CompareDigits() {
    constexpr uint32_t kLastPlace = 2;
    for (uint32_t place = 0; place <= kLastPlace; ++place) {
      const bool last = place == kLastPlace;
      if (!last) {
        And(digit_, numbers_, sevens_, num_groups_ * 2, {1, 1, 1, 8, 8, 0});
        AscendC::PipeBarrier<PIPE_V>();
      }
      AscendC::Cast(real_digit_, last ? numbers_ : digit_, AscendC::RoundMode::CAST_RINT,
                    static_cast<uint32_t>(all_ids_));
      AscendC::PipeBarrier<PIPE_V>();
      const uint32_t num_values = last ? lanes_ / kDigits / kDigits : kDigits;
      for (uint32_t value = 0; value < num_values; ++value) {
        AscendC::Compare(Row(place, value * num_groups_).template ReinterpretCast<uint8_t>(), real_digit_,
                         digits_[value * kBatchIds], AscendC::CMPMODE::EQ, static_cast<uint32_t>(all_ids_));
      }
      if (!last) AscendC::ShiftRight(numbers_, numbers_, int16_t(3), all_ids_);
      AscendC::PipeBarrier<PIPE_V>();
    }
  }

  // Every fourth bit of a group's products, for all experts.
  __aicore__ inline void AddSlice(uint32_t group) {
    And(num_added_ == 0 ? nibbles_ : products_, slice_[group * kBlockLanes], upper_[group * UpperLanes()],
        lanes_ / kDigits, {1, num_groups_, 0, 8, 0, 1});
    AscendC::PipeBarrier<PIPE_V>();
    if (num_added_ != 0) {
      AddFields(nibbles_, products_);
      AscendC::PipeBarrier<PIPE_V>();
    }
    if (++num_added_ == kMaxAdded) Widen();
  }

  // Adds the nibbles to the bytes.
  __aicore__ inline void Widen() {
    And(has_bytes_ ? products_ : bytes_, nibbles_, low_nibbles_, lanes_ / kDigits, {1, 1, 1, 8, 8, 0});
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::ShiftRight(nibbles_, nibbles_, uint16_t(4), static_cast<int32_t>(lanes_ * kBlockLanes));
    if (has_bytes_) AddFields(bytes_, products_);
    AscendC::PipeBarrier<PIPE_V>();
    And(nibbles_, nibbles_, low_nibbles_, lanes_ / kDigits, {1, 1, 1, 8, 8, 0});
    AscendC::PipeBarrier<PIPE_V>();
    AddFields(bytes_, nibbles_);
    AscendC::PipeBarrier<PIPE_V>();
    has_bytes_ = true;
    num_added_ = 0;
  }

  __aicore__ inline void AddToHistogram() {
    const AscendC::LocalTensor<half> halves = products_.template ReinterpretCast<half>();  // over nibbles_ too
    AscendC::Cast(halves, bytes_.template ReinterpretCast<uint8_t>(), AscendC::RoundMode::CAST_NONE,
                  lanes_ * kBlockBytes);
    AscendC::PipeBarrier<PIPE_V>();
    const int32_t lanes = static_cast<int32_t>(kRepeatLanes), repeats = static_cast<int32_t>(lanes_ / kDigits);
    AscendC::BlockReduceSum(block_sums_, halves, 2 * repeats, lanes, 1, 1, 8);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::PairReduceSum(sums_, block_sums_, repeats / static_cast<int32_t>(kDigits), lanes, 1, 1, 8);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Cast(counts_, sums_, AscendC::RoundMode::CAST_RINT, lanes_);
    AscendC::PipeBarrier<PIPE_V>();
    AscendC::Add(histogram_, histogram_, counts_, static_cast<int32_t>(lanes_));
    has_bytes_ = false;
  }

  uint32_t num_experts_ = 0, lanes_ = 0, taken_ = 0, num_added_ = 0;
  uint8_t num_groups_ = 0;  // a stride in blocks
  int32_t all_ids_ = 0;     // with those that fill the last group
  bool has_bytes_ = false;
  AscendC::TBuf<AscendC::TPosition::VECCALC> buffer_;
  AscendC::LocalTensor<half> digits_, real_digit_, block_sums_, sums_;
  AscendC::LocalTensor<int16_t> sevens_, numbers_, digit_;
  AscendC::LocalTensor<float> reals_;
  AscendC::LocalTensor<uint16_t> low_bits_, low_nibbles_, rows_, slice_, upper_, products_, nibbles_, bytes_;
  AscendC::LocalTensor<int32_t> counts_, histogram_;
};

}  // namespace ascend_ext
