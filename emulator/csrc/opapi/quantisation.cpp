// SPDX-License-Identifier: Apache-2.0
// Semantics from op-plugin's public API documentation of npu_dynamic_quant, npu_quant_matmul,
// npu_trans_quant_param, npu_convert_weight_to_int4pack, npu_weight_quant_batchmatmul and npu_grouped_matmul
// (BSD-3 repository), and from its test of npu_kronecker_quant; what an int4 product's bias makes up for, from
// vllm-ascend's quantization/methods/w4a8.py (Apache-2.0), which prepares it.
#include "opapi/quantisation.h"

#include <algorithm>

#include "opapi/bodies.h"

namespace emu::opapi {
namespace {

constexpr double kLargest = 127;
constexpr int64_t kInt4Offset = 8;
constexpr double kLargestInt4 = 7;
constexpr int64_t kInt4InWord = 8;

// The values of a weight [.., K, N] as int8; int32 words hold eight of the dimension that is too short.
Tensor Unpacked(const Tensor& weight, int64_t rows) {
  if (weight.scalar_type() != at::kInt) return weight;
  return weight.size(-2) == rows ? unpack_int4(weight) : unpack_int4(weight.mT()).mT();
}

// A scale or offset of groups of `group_size` rows as one for each of `rows`.
Tensor OfRows(const Tensor& groups, int64_t group_size, int64_t rows) {
  if (groups.dim() < 2 || groups.size(-2) == 1 || group_size == 0) return f32(groups);
  return f32(groups).repeat_interleave(group_size, -2).narrow(-2, 0, rows);
}

}  // namespace

QuantisedRows quantise_rows(const Tensor& x) {
  const auto wide = x.to(at::kFloat);
  const auto scales = at::amax(at::abs(wide), Ints{-1}) / kLargest;
  const auto divisor = scales.masked_fill(scales == 0, 1).unsqueeze(-1);
  return {at::round(wide / divisor).clamp(-kLargest - 1, kLargest).to(at::kChar), scales, {}};
}

QuantisedRows quantise_rows(const Tensor& x, at::ScalarType type, bool shifts) {
  if (type != at::kChar && type != at::kInt) not_emulated("quantising to another type than int8 and int4");
  const double largest = type == at::kChar ? kLargest : kLargestInt4;
  const auto wide = x.to(at::kFloat);
  QuantisedRows rows;
  if (shifts) {
    const auto most = at::amax(wide, Ints{-1});
    rows.scales = (most - at::amin(wide, Ints{-1})) / (2 * largest + 1);
    rows.offsets = largest - most / rows.scales;
  } else {
    rows.scales = at::amax(at::abs(wide), Ints{-1}) / largest;
  }
  auto values = wide / rows.scales.masked_fill(rows.scales == 0, 1).unsqueeze(-1);
  if (shifts) values = values + rows.offsets.unsqueeze(-1);
  values = at::round(values).clamp(-largest - 1, largest).to(at::kChar);
  rows.values = type == at::kChar ? values : pack_int4(values);
  return rows;
}

Tensor smoothed(const Tensor& x, const Tensor& scales, const Tensor& groups) {
  if (!scales.defined()) return x;
  if (!groups.defined()) return f32(x) * f32(scales);
  const auto rows = f32(x).clone(at::MemoryFormat::Contiguous);
  const auto flat = rows.view({-1, x.size(-1)});
  int64_t begin = 0;
  for (int64_t g = 0; g < groups.numel(); ++g) {
    const int64_t end = std::max(begin, i64(groups)[g].item<int64_t>());
    flat.slice(0, begin, end).mul_(f32(scales)[g]);
    begin = end;
  }
  return rows;
}

Tensor scaled_to_int8(const Tensor& x, const Tensor& scale, const Tensor& offset, bool divides) {
  auto result = divides ? f32(x) / f32(scale) : f32(x) * f32(scale);
  if (offset.defined()) result = result + offset.to(at::kFloat);
  return at::round(result).clamp(-kLargest - 1, kLargest);
}

// float64 holds every sum of int8 products exactly, and has a fast product on the CPU.
Tensor integer_product(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != at::kChar || b.scalar_type() != at::kChar) {
    not_emulated(c10::str("an integer product of ", a.scalar_type(), " and ", b.scalar_type()));
  }
  return at::matmul(a.to(at::kDouble), b.to(at::kDouble)).to(at::kInt);
}

Tensor scale_of(const Tensor& scale) {
  if (scale.scalar_type() != at::kLong && scale.scalar_type() != at::kUInt64) return scale.to(at::kFloat);
  return scale.view(at::kLong).to(at::kInt).view(at::kFloat);
}

Tensor scale_bits(const Tensor& scale) { return scale.contiguous().view(at::kInt).to(at::kLong); }

Tensor unpack_int4(const Tensor& words) {
  const auto shifts = at::arange(0, 32, 4, words.options());
  const auto nibbles = at::bitwise_right_shift(words.unsqueeze(-1), shifts).bitwise_and(15);
  return at::where(nibbles >= 8, nibbles - 16, nibbles).flatten(-2).to(at::kChar);
}

Tensor pack_int4(const Tensor& values) {
  const auto nibbles = values.to(at::kInt).unflatten(-1, {-1, kInt4InWord}).bitwise_and(15);
  const auto shifts = at::arange(0, 32, 4, nibbles.options());
  return at::bitwise_left_shift(nibbles, shifts).sum(Ints{-1}, false, at::kInt);
}

void weight_quant_matmul(const WeightQuantMatmul& call, const Tensor& out) {
  const int64_t rows = call.x.size(-1);
  const auto weight = Unpacked(call.weight, rows);
  if (weight.scalar_type() != at::kChar) {
    not_emulated(c10::str("a quantised weight of ", weight.scalar_type()));
  }
  auto wide = weight.to(at::kFloat);
  if (call.offset.defined()) wide = wide + OfRows(call.offset, call.group_size, rows);
  auto result = at::matmul(f32(call.x), wide * OfRows(call.scale, call.group_size, rows));
  if (call.bias.defined()) result = result + f32(call.bias);
  if (call.quant_scale.defined()) {
    result = result * scale_of(call.quant_scale);
    if (call.quant_offset.defined()) result = result + f32(call.quant_offset);
    result = at::round(result).clamp(-kLargest - 1, kLargest);
  }
  put(out, result);
}

void flat_quant(const Tensors& x_p1_p2, double clip_ratio, const Tensor& out, const Tensor& scales) {
  if (out.scalar_type() != at::kInt) not_emulated("a flat quantisation to another type than int4");
  const auto product = at::matmul(f32(x_p1_p2[1]), at::matmul(f32(x_p1_p2[0]), f32(x_p1_p2[2])));
  const auto scale = at::amax(at::abs(product), Ints{-1, -2}) / (kLargestInt4 * clip_ratio);
  const auto divisor = scale.masked_fill(scale == 0, 1).view({-1, 1, 1});
  put(out, pack_int4(at::round(product / divisor).clamp(-kLargestInt4 - 1, kLargestInt4)));
  put(scales, scale);
}

Tensor int4_product(const Int4Product& call) {
  if (!call.bias.defined()) not_emulated("an int4 product without a bias");
  const auto weight = unpack_int4(call.words);
  const auto scale = scale_of(call.scale).view({-1, weight.size(1)});
  const int64_t num_groups = scale.size(0), group = weight.size(0) / num_groups;
  const auto x = call.x.to(at::kInt) - kInt4Offset;
  auto result = f32(call.bias).expand({x.size(0), weight.size(1)});
  for (int64_t g = 0; g < num_groups; ++g) {
    const auto sums = at::matmul(x.narrow(1, g * group, group).to(at::kDouble),
                                 weight.narrow(0, g * group, group).to(at::kDouble));  // exact
    result = result + sums.to(at::kFloat) * scale[g];
  }
  return result;
}

void quant_matmul(const QuantMatmul& call, const Tensor& out) {
  auto x = call.transpose_x ? call.x.transpose(-1, -2) : call.x;
  auto weight = call.transpose_weight ? call.weight.transpose(-1, -2) : call.weight;
  if (x.scalar_type() == at::kInt) x = unpack_int4(x);
  weight = Unpacked(weight, x.size(-1));
  auto sums = integer_product(x, weight);
  const bool integer_bias = call.bias.defined() && call.bias.scalar_type() == at::kInt;
  if (integer_bias) sums = sums + call.bias;
  if (out.scalar_type() == at::kInt) {
    put(out, sums);
    return;
  }
  auto result = sums.to(at::kFloat) * scale_of(call.column_scale);
  if (call.row_scale.defined()) result = result * call.row_scale.to(at::kFloat).unsqueeze(-1);
  if (call.bias.defined() && !integer_bias) result = result + f32(call.bias);
  if (out.scalar_type() == at::kChar) result = at::round(result).clamp(-kLargest - 1, kLargest);
  put(out, result);
}

}  // namespace emu::opapi
