// SPDX-License-Identifier: Apache-2.0
// AscendC's vector instructions on `count` elements (level 2), as far as our kernels use them.
#pragma once

#include <algorithm>
#include <limits>

#include "../vector_cycles.h"
#include "copy.h"

namespace AscendC {

enum class RoundMode : uint8_t { CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD };

namespace vector {

template <typename T, typename... Known>
constexpr bool kOneOf = (std::is_same_v<T, Known> || ...);
template <typename T>
constexpr bool kArithmetic = kOneOf<T, int16_t, half, int32_t, float>;
template <typename T>
constexpr bool kReal = kOneOf<T, half, float>;
template <typename T>
constexpr bool kShifted = kOneOf<T, int16_t, uint16_t, int32_t, uint32_t>;
template <typename T>
constexpr bool kCopied = kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>;

// One operand: its extent, checked for alignment and bounds.
struct Operand {
  uint32_t offset, bytes;
  template <typename T>
  Operand(const LocalTensor<T>& tensor, int64_t count, Here here) : offset(tensor.offset()) {
    if (count <= 0 || count > INT32_MAX / 8) {
      ascendc_host::Fail("vector-count", here,
                         Text("a vector instruction on %lld elements", static_cast<long long>(count)));
    }
    bytes = static_cast<uint32_t>(count * sizeof(T));
    tensor.RequireAligned(here);
    tensor.Require(bytes, here);
  }
};

inline void CheckOverlap(const Operand& dst, const Operand& src, Here here) {
  const bool apart = dst.offset + dst.bytes <= src.offset || src.offset + src.bytes <= dst.offset;
  if (!apart && dst.offset != src.offset) {
    ascendc_host::Fail("vector-overlap", here, "destination and source overlap in part");
  }
}

// Cycles of `repeats` repeats over operands without gaps.
inline uint64_t Cycles(const Operand& dst, std::initializer_list<Operand> sources, uint32_t repeats) {
  uint64_t cycles = ascendc_host::kStartUpCycles;
  for (uint64_t r = 0; r < repeats; ++r) {
    ascendc_host::RepeatCycles banks;
    const auto each_block = [&](const Operand& operand, auto touch) {
      const uint64_t end = operand.bytes * (r + 1) / repeats;
      for (uint64_t at = operand.bytes * r / repeats; at < end; at += ascendc_host::kBlock) {
        touch(static_cast<uint32_t>(operand.offset + at));
      }
    };
    for (const Operand& source : sources) each_block(source, [&](uint32_t at) { banks.Read(at); });
    each_block(dst, [&](uint32_t at) { banks.Write(at); });
    cycles += banks.Cycles();
  }
  return cycles;
}

// Orders, counts and issues one instruction: reads `sources`, writes `dst`, does `work`.
template <typename Work>
void Instruct(const Operand& dst, std::initializer_list<Operand> sources, Here here, Work work) {
  Core& core = Core::Current();
  const auto now = core.Begin(ascendc_host::kVector, here);
  uint32_t widest = dst.bytes;
  core.TouchUb(now, dst.offset, dst.bytes, true);  // first: its own reads would hide earlier ones
  for (const Operand& source : sources) {
    CheckOverlap(dst, source, here);
    core.TouchUb(now, source.offset, source.bytes, false);
    widest = std::max(widest, source.bytes);
  }
  ++core.statistics.vector_instructions;
  const uint32_t repeats = (widest + 255) / 256;
  core.statistics.vector_repeats += repeats;
  core.statistics.vector_cycles += Cycles(dst, sources, repeats);
  core.Issue(ascendc_host::kVector, [&core, dst, inputs = std::vector<Operand>(sources), here, work] {
    for (const Operand& source : inputs) core.RequireInitialised(source.offset, source.bytes, here);
    work(core);
    core.MarkInitialised(dst.offset, dst.bytes);
  });
}

template <typename T>
T* At(Core& core, const LocalTensor<T>& tensor) {
  return reinterpret_cast<T*>(core.Bytes(tensor.offset()));
}

// a (op) b in T: integers wrap, half is computed in float and rounded once.
template <typename T, typename Fn>
T Compute(T a, T b, Fn fn) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(fn(static_cast<int64_t>(a), static_cast<int64_t>(b)));
  } else {
    return static_cast<T>(fn(static_cast<float>(a), static_cast<float>(b)));
  }
}

template <typename T, typename Fn>
void Binary(const LocalTensor<T>& dst, const LocalTensor<T>& a, const LocalTensor<T>& b, int32_t count, Here here,
            Fn fn) {
  Instruct({dst, count, here}, {{a, count, here}, {b, count, here}}, here, [=](Core& core) {
    T *out = At(core, dst), *x = At(core, a), *y = At(core, b);
    for (int32_t i = 0; i < count; ++i) out[i] = Compute(x[i], y[i], fn);
  });
}

template <typename T, typename Fn>
void WithScalar(const LocalTensor<T>& dst, const LocalTensor<T>& a, T scalar, int32_t count, Here here, Fn fn) {
  Instruct({dst, count, here}, {{a, count, here}}, here, [=](Core& core) {
    T *out = At(core, dst), *x = At(core, a);
    for (int32_t i = 0; i < count; ++i) out[i] = Compute(x[i], scalar, fn);
  });
}

}  // namespace vector

#define ASCENDC_BINARY(NAME, TYPES, EXPRESSION)                                                               \
  template <typename T>                                                                                       \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, int32_t count, \
            ASCENDC_HERE) {                                                                                   \
    static_assert(vector::TYPES<T>, #NAME ": unsupported data type");                                         \
    vector::Binary(dst, src0, src1, count, here, [](auto a, auto b) { return EXPRESSION; });                  \
  }
#define ASCENDC_SCALAR(NAME, EXPRESSION)                                                                   \
  template <typename T>                                                                                    \
  void NAME(const LocalTensor<T>& dst, const LocalTensor<T>& src, T scalar, int32_t count, ASCENDC_HERE) { \
    static_assert(vector::kArithmetic<T>, #NAME ": unsupported data type");                                \
    vector::WithScalar(dst, src, scalar, count, here, [](auto a, auto b) { return EXPRESSION; });          \
  }

ASCENDC_BINARY(Add, kArithmetic, a + b)
ASCENDC_BINARY(Sub, kArithmetic, a - b)
ASCENDC_BINARY(Mul, kArithmetic, a* b)
ASCENDC_BINARY(Max, kArithmetic, a > b ? a : b)
ASCENDC_BINARY(Min, kArithmetic, a < b ? a : b)
ASCENDC_BINARY(Div, kReal, a / b)
ASCENDC_SCALAR(Adds, a + b)
ASCENDC_SCALAR(Muls, a* b)
ASCENDC_SCALAR(Maxs, a > b ? a : b)
ASCENDC_SCALAR(Mins, a < b ? a : b)
#undef ASCENDC_BINARY
#undef ASCENDC_SCALAR

template <typename T>
void Sqrt(const LocalTensor<T>& dst, const LocalTensor<T>& src, int32_t count, ASCENDC_HERE) {
  static_assert(vector::kReal<T>, "Sqrt: unsupported data type");
  vector::WithScalar(dst, src, T(0.0f), count, here, [](auto a, auto) { return std::sqrt(a); });
}

// Logical for unsigned types, arithmetic for signed ones.
template <typename T>
void ShiftRight(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count,
                ASCENDC_HERE) {
  static_assert(vector::kShifted<T>, "ShiftRight: unsupported data type");
  if (scalarValue < T(0) || static_cast<uint64_t>(scalarValue) > 8 * sizeof(T)) {
    ascendc_host::Fail("shift-range", here,
                       Text("shifts %zu bits by %lld", 8 * sizeof(T), static_cast<long long>(scalarValue)));
  }
  vector::WithScalar(dst, src, scalarValue, count, here, [](auto a, auto b) { return a >> b; });
}

enum class CMPMODE : uint8_t { EQ };  // of six, the one our kernels use

namespace vector {

template <typename T>
void CheckCompareCount(uint32_t count, Here here) {
  if (count * sizeof(T) % 256 != 0) {
    ascendc_host::Fail("compare-count", here, Text("compares %u elements, which do not fill 256 bytes", count));
  }
}

template <typename U, typename Is>
void SetBits(U* bits, uint32_t count, Is is) {
  std::fill_n(bits, count / 8, U(0));
  for (uint32_t i = 0; i < count; ++i) bits[i / 8] = static_cast<U>(bits[i / 8] | (is(i) ? 1 << (i % 8) : 0));
}

}  // namespace vector

// Bit i % 8 of byte i / 8 of `dst`: whether src0[i] equals src1[i].
template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE,
             uint32_t count, ASCENDC_HERE) {
  static_assert(vector::kReal<T> && vector::kOneOf<U, int8_t, uint8_t>, "Compare: unsupported data type");
  vector::CheckCompareCount<T>(count, here);
  vector::Instruct({dst, count / 8, here}, {{src0, count, here}, {src1, count, here}}, here, [=](Core& core) {
    const T *a = vector::At(core, src0), *b = vector::At(core, src1);
    vector::SetBits(vector::At(core, dst), count,
                    [=](uint32_t i) { return static_cast<float>(a[i]) == static_cast<float>(b[i]); });
  });
}

template <typename T, typename U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1Scalar, CMPMODE,
                   uint32_t count, ASCENDC_HERE) {
  static_assert(vector::kReal<T> && vector::kOneOf<U, uint8_t>, "CompareScalar: unsupported data type");
  vector::CheckCompareCount<T>(count, here);
  vector::Instruct({dst, count / 8, here}, {{src0, count, here}}, here, [=](Core& core) {
    const T* a = vector::At(core, src0);
    vector::SetBits(vector::At(core, dst), count,
                    [=](uint32_t i) { return static_cast<float>(a[i]) == static_cast<float>(src1Scalar); });
  });
}

template <typename T>
void Duplicate(const LocalTensor<T>& dst, T value, int32_t count, ASCENDC_HERE) {
  static_assert(vector::kCopied<T>, "Duplicate: unsupported data type");
  vector::Instruct({dst, count, here}, {}, here,
                   [=](Core& core) { std::fill_n(vector::At(core, dst), count, value); });
}

// The pairs our kernels use, each with the modes the documentation gives it.
template <typename To, typename From>
void Cast(const LocalTensor<To>& dst, const LocalTensor<From>& src, const RoundMode& mode, uint32_t count,
          ASCENDC_HERE) {
  using vector::kOneOf;
  constexpr bool widens = (std::is_same_v<To, float> && kOneOf<From, half, bfloat16_t>) ||
                          (std::is_same_v<To, half> && std::is_same_v<From, uint8_t>);
  constexpr bool narrows = std::is_same_v<From, float> && kOneOf<To, half, bfloat16_t>;
  constexpr bool integers = (std::is_same_v<To, int32_t> && std::is_same_v<From, int64_t>) ||
                            (std::is_same_v<To, int64_t> && std::is_same_v<From, int32_t>);
  constexpr bool to_real = (std::is_same_v<To, float> && kOneOf<From, int32_t, int64_t>) ||
                           (std::is_same_v<To, half> && std::is_same_v<From, int16_t>);
  constexpr bool rounds = (std::is_same_v<To, int32_t> && kOneOf<From, half, float>) ||
                          (std::is_same_v<To, int16_t> && std::is_same_v<From, float>);
  static_assert(widens || narrows || integers || to_real || rounds, "Cast: unsupported pair of data types");
  const bool known = mode == (widens || integers ? RoundMode::CAST_NONE : RoundMode::CAST_RINT);
  if (!known) ascendc_host::Fail("cast-mode", here, "a rounding mode that this pair of types does not have here");
  vector::Instruct({dst, count, here}, {{src, count, here}}, here, [=](Core& core) {
    To* out = vector::At(core, dst);
    const From* in = vector::At(core, src);
    for (uint32_t i = 0; i < count; ++i) {
      if constexpr (rounds) {  // and saturates
        const float value = std::nearbyint(static_cast<float>(in[i]));
        const float most = static_cast<float>(std::numeric_limits<To>::max());
        out[i] = value >= most ? std::numeric_limits<To>::max() : static_cast<To>(std::max(value, -most - 1));
      } else {
        out[i] = static_cast<To>(in[i]);
      }
    }
  });
}

// Sum of `count` elements into dst[0]: a binary tree in each repeat of 256 bytes, the repeats in order. `tmp`
// holds one partial sum a repeat.
template <typename T>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& tmp, int32_t count,
               ASCENDC_HERE) {
  static_assert(vector::kReal<T>, "ReduceSum: unsupported data type");
  constexpr int32_t kLanes = 256 / sizeof(T);
  const vector::Operand partial(tmp, (count + kLanes - 1) / kLanes, here), out(dst, 1, here);
  vector::CheckOverlap(out, {src, count, here}, here);
  vector::Instruct(partial, {{src, count, here}}, here, [](Core&) {});
  PipeBarrier<PIPE_V>();  // ReduceSum orders its own steps
  // how long the source is read is not documented: until the end
  vector::Instruct(out, {partial, {src, count, here}}, here, [=](Core& core) {
    float sum = 0.0f;
    for (int32_t begin = 0; begin < count; begin += kLanes) {
      float lanes[kLanes] = {};
      for (int32_t i = 0; i < std::min(kLanes, count - begin); ++i) {
        lanes[i] = static_cast<float>(vector::At(core, src)[begin + i]);
      }
      for (int32_t width = kLanes / 2; width > 0; width /= 2) {
        for (int32_t i = 0; i < width; ++i) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
      }
      sum += lanes[0];
    }
    vector::At(core, dst)[0] = static_cast<T>(sum);
  });
}

}  // namespace AscendC
