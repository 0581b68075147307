// SPDX-License-Identifier: Apache-2.0
// half and bfloat16_t as storage with conversions to and from float; arithmetic is done in float.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ascendc_host {

inline uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// float -> float with `mantissa_bits` bits dropped, as CAST_RINT (nearest, ties to even); finite values only.
inline uint32_t RoundMantissa(uint32_t bits, int dropped) {
  const uint32_t half_way = (1u << (dropped - 1)) - 1;
  return (bits + half_way + ((bits >> dropped) & 1u)) >> dropped;
}

inline uint16_t FloatToHalfBits(float value) {
  const uint32_t bits = Bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 6.103515625e-05f) {  // subnormal: a multiple of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 16777216.0f)));
  }
  return static_cast<uint16_t>(sign | RoundMantissa(Bits(magnitude) - (112u << 23), 13));
}

inline float HalfBitsToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 5.9604644775390625e-08f;
    return sign != 0 ? -value : value;
  }
  if (exponent == 31) return FromBits(sign | 0x7f800000u | (mantissa << 13));
  return FromBits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

inline uint16_t FloatToBfloat16Bits(float value) {
  const uint32_t bits = Bits(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>(RoundMantissa(bits, 16));
}

}  // namespace ascendc_host

// The global names of AscendC.
struct half {
  uint16_t bits;
  half() = default;
  explicit half(float value) : bits(ascendc_host::FloatToHalfBits(value)) {}
  explicit operator float() const { return ascendc_host::HalfBitsToFloat(bits); }
};

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float value) : bits(ascendc_host::FloatToBfloat16Bits(value)) {}
  explicit operator float() const { return ascendc_host::FromBits(static_cast<uint32_t>(bits) << 16); }
};
