// SPDX-License-Identifier: Apache-2.0
// Functions of AscendC that CANN 9 renames: called by the new name where CANN declares it for these arguments, by
// the old one elsewhere, found by the types of the arguments. Neither spelling is in the kernels.
//
//   CANN 8.5            CANN 9.1
//   BlockReduceSum      ReduceDataBlock, by a kind of reduction whose first is the sum
//   PairReduceSum       ReducePairElem, likewise
//   SetAtomicNone       DisableDmaAtomic (9.0)
//   CompareScalar       Compares
#pragma once

#include "kernel_operator.h"

// For functions without arguments: a function of AscendC is preferred to these templates.
namespace ascend_ext_missing {
template <typename Never = void>
__aicore__ inline void SetAtomicNone() {
  static_assert(sizeof(Never) == 0, "AscendC declares neither DisableDmaAtomic nor SetAtomicNone");
}
}  // namespace ascend_ext_missing

namespace ascend_ext_older {
using namespace AscendC;
using namespace ascend_ext_missing;
template <typename Never = void>
__aicore__ inline void DisableDmaAtomic() {
  SetAtomicNone();
}
}  // namespace ascend_ext_older

namespace ascend_ext {
namespace renamed {

// Becomes the first value of whichever enumeration is asked for.
struct Sum {
  template <typename Kind>
  constexpr operator Kind() const {
    return static_cast<Kind>(0);
  }
};

// Nobody's: they let the calls below be parsed as calls of templates.
template <int>
void ReduceDataBlock();
template <int>
void ReducePairElem();

template <typename... Arguments>
__aicore__ inline auto Blocks(int, const Arguments&... arguments)
    -> decltype(ReduceDataBlock<Sum{}>(arguments...)) {
  return ReduceDataBlock<Sum{}>(arguments...);
}
template <typename... Arguments>
__aicore__ inline auto Blocks(long, const Arguments&... arguments) -> decltype(BlockReduceSum(arguments...)) {
  return BlockReduceSum(arguments...);
}

template <typename... Arguments>
__aicore__ inline auto Pairs(int, const Arguments&... arguments) -> decltype(ReducePairElem<Sum{}>(arguments...)) {
  return ReducePairElem<Sum{}>(arguments...);
}
template <typename... Arguments>
__aicore__ inline auto Pairs(long, const Arguments&... arguments) -> decltype(PairReduceSum(arguments...)) {
  return PairReduceSum(arguments...);
}

// The old name first: CANN 9.0 declares a Compares for other chips that takes any arguments.
template <typename... Arguments>
__aicore__ inline auto Scalar(int, const Arguments&... arguments) -> decltype(CompareScalar(arguments...)) {
  return CompareScalar(arguments...);
}
template <typename... Arguments>
__aicore__ inline auto Scalar(long, const Arguments&... arguments) -> decltype(Compares(arguments...)) {
  return Compares(arguments...);
}

using namespace AscendC;
using namespace ascend_ext_older;
__aicore__ inline void EndAtomic() { DisableDmaAtomic(); }

}  // namespace renamed

// The sum of each block of 32 bytes; without gaps.
template <typename T>
__aicore__ inline void SumOfBlocks(const AscendC::LocalTensor<T>& to, const AscendC::LocalTensor<T>& from,
                                   int32_t repeats) {
  renamed::Blocks(0, to, from, repeats, static_cast<int32_t>(256 / sizeof(T)), 1, 1, 8);
}

// The sum of each two neighbours; without gaps.
template <typename T>
__aicore__ inline void SumOfPairs(const AscendC::LocalTensor<T>& to, const AscendC::LocalTensor<T>& from,
                                  int32_t repeats) {
  renamed::Pairs(0, to, from, repeats, static_cast<int32_t>(256 / sizeof(T)), 1, 1, 8);
}

// Bit i % 8 of byte i / 8 of `to`: whether from[i] equals `scalar`.
template <typename T>
__aicore__ inline void EqualsScalar(const AscendC::LocalTensor<uint8_t>& to, const AscendC::LocalTensor<T>& from,
                                    T scalar, uint32_t count) {
  renamed::Scalar(0, to, from, scalar, AscendC::CMPMODE::EQ, count);
}

// Copies from now on overwrite what they have added to.
__aicore__ inline void EndAtomicAdd() { renamed::EndAtomic(); }

}  // namespace ascend_ext
