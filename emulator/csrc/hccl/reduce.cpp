// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <string>
#include <type_traits>

#include "core/failure.h"
#include "hccl/types.h"

namespace emu::hccl {
namespace {

struct TypeRow {
  DataType type;
  size_t bytes;
  const char* name;
};

constexpr TypeRow kTypes[] = {
    {DataType::kInt8, 1, "int8"},       {DataType::kInt16, 2, "int16"},     {DataType::kInt32, 4, "int32"},
    {DataType::kInt64, 8, "int64"},     {DataType::kUint8, 1, "uint8"},     {DataType::kUint16, 2, "uint16"},
    {DataType::kUint32, 4, "uint32"},   {DataType::kUint64, 8, "uint64"},   {DataType::kFp16, 2, "fp16"},
    {DataType::kBf16, 2, "bf16"},       {DataType::kFp32, 4, "fp32"},       {DataType::kFp64, 8, "fp64"},
    {DataType::kFp8E4M3, 1, "fp8e4m3"}, {DataType::kFp8E5M2, 1, "fp8e5m2"},
};

const TypeRow& RowOf(DataType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) {
      return row;
    }
  }
  throw Error(kInvalidParam, "HCCL has no data type " + std::to_string(static_cast<int>(type)));
}

float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

struct Bf16 {
  uint16_t bits;
  float Widen() const { return BitsToFloat(uint32_t{bits} << 16); }
  static Bf16 Narrow(float value) {
    const uint32_t wide = FloatToBits(value);
    if (value != value) {
      return {static_cast<uint16_t>((wide >> 16) | 0x40u)};  // stays a NaN
    }
    return {static_cast<uint16_t>((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16)};  // to nearest, ties to even
  }
};

struct Fp16 {
  uint16_t bits;
  float Widen() const {
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t exponent = (bits >> 10) & 0x1fu;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
      const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return sign != 0 ? -magnitude : magnitude;
    }
    return BitsToFloat(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | fraction << 13);
  }
  static Fp16 Narrow(float value) {
    const uint32_t wide = FloatToBits(value);
    const uint16_t sign = static_cast<uint16_t>((wide >> 16) & 0x8000u);
    const uint32_t magnitude = wide & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      return {static_cast<uint16_t>(sign | 0x7e00u)};
    }
    if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more: infinity
      return {static_cast<uint16_t>(sign | 0x7c00u)};
    }
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 lets the hardware round at 2^-24
      const uint32_t rounded = FloatToBits(BitsToFloat(magnitude) + 0.5f) - FloatToBits(0.5f);
      return {static_cast<uint16_t>(sign | rounded)};
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
  }
};

template <typename T>
struct Arithmetic {  // the type that sums are kept in
  static T Widen(T value) { return value; }
  static T Narrow(T value) { return value; }
};
template <>
struct Arithmetic<Bf16> {
  static float Widen(Bf16 value) { return value.Widen(); }
  static Bf16 Narrow(float value) { return Bf16::Narrow(value); }
};
template <>
struct Arithmetic<Fp16> {
  static float Widen(Fp16 value) { return value.Widen(); }
  static Fp16 Narrow(float value) { return Fp16::Narrow(value); }
};

template <typename W>
W Combine(ReduceOp op, W left, W right) {
  if constexpr (std::is_integral_v<W>) {  // unsigned: what overflows wraps around, as on the device
    if (op == ReduceOp::kSum) {
      return static_cast<W>(static_cast<uint64_t>(left) + static_cast<uint64_t>(right));
    }
    if (op == ReduceOp::kProd) {
      return static_cast<W>(static_cast<uint64_t>(left) * static_cast<uint64_t>(right));
    }
  }
  switch (op) {
    case ReduceOp::kSum:
      return left + right;
    case ReduceOp::kProd:
      return left * right;
    case ReduceOp::kMax:  // a NaN wins, as in torch.amax
      return right != right || right > left ? right : left;
    case ReduceOp::kMin:
      return right != right || right < left ? right : left;
  }
  return left;
}

template <typename T, ReduceOp op>
void ReduceWith(const char* const* inputs, int num_inputs, size_t count, char* result) {
  for (size_t i = 0; i < count; ++i) {
    const auto load = [&](int rank) {
      T value;
      std::memcpy(&value, inputs[rank] + i * sizeof(T), sizeof(T));
      return Arithmetic<T>::Widen(value);
    };
    auto total = load(0);
    for (int rank = 1; rank < num_inputs; ++rank) {
      total = Combine(op, total, load(rank));
    }
    const T narrow = Arithmetic<T>::Narrow(total);
    std::memcpy(result + i * sizeof(T), &narrow, sizeof(T));
  }
}

template <typename T>
void ReduceType(ReduceOp op, const char* const* inputs, int num_inputs, size_t count, char* result) {
  switch (op) {
    case ReduceOp::kSum:
      return ReduceWith<T, ReduceOp::kSum>(inputs, num_inputs, count, result);
    case ReduceOp::kProd:
      return ReduceWith<T, ReduceOp::kProd>(inputs, num_inputs, count, result);
    case ReduceOp::kMax:
      return ReduceWith<T, ReduceOp::kMax>(inputs, num_inputs, count, result);
    case ReduceOp::kMin:
      return ReduceWith<T, ReduceOp::kMin>(inputs, num_inputs, count, result);
  }
}

}  // namespace

size_t SizeOf(DataType type) { return RowOf(type).bytes; }

const char* NameOf(DataType type) { return RowOf(type).name; }

const char* NameOf(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kProd:
      return "prod";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kMin:
      return "min";
  }
  throw Error(kInvalidParam, "HCCL has no reduction " + std::to_string(static_cast<int>(op)));
}

void Reduce(DataType type, ReduceOp op, const char* const* inputs, int num_inputs, size_t count, char* result) {
  switch (type) {
    case DataType::kInt8:
      return ReduceType<int8_t>(op, inputs, num_inputs, count, result);
    case DataType::kInt16:
      return ReduceType<int16_t>(op, inputs, num_inputs, count, result);
    case DataType::kInt32:
      return ReduceType<int32_t>(op, inputs, num_inputs, count, result);
    case DataType::kInt64:
      return ReduceType<int64_t>(op, inputs, num_inputs, count, result);
    case DataType::kUint8:
      return ReduceType<uint8_t>(op, inputs, num_inputs, count, result);
    case DataType::kUint16:
      return ReduceType<uint16_t>(op, inputs, num_inputs, count, result);
    case DataType::kUint32:
      return ReduceType<uint32_t>(op, inputs, num_inputs, count, result);
    case DataType::kUint64:
      return ReduceType<uint64_t>(op, inputs, num_inputs, count, result);
    case DataType::kFp16:
      return ReduceType<Fp16>(op, inputs, num_inputs, count, result);
    case DataType::kBf16:
      return ReduceType<Bf16>(op, inputs, num_inputs, count, result);
    case DataType::kFp32:
      return ReduceType<float>(op, inputs, num_inputs, count, result);
    case DataType::kFp64:
      return ReduceType<double>(op, inputs, num_inputs, count, result);
    default:
      throw Error(kInvalidParam, std::string("HCCL does not reduce ") + NameOf(type));
  }
}

}  // namespace emu::hccl
