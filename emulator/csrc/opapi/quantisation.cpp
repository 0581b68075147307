// SPDX-License-Identifier: Apache-2.0
// Semantics from op-plugin's public API documentation of npu_dynamic_quant, npu_quant_matmul and
// npu_trans_quant_param (BSD-3 repository).
#include "opapi/quantisation.h"

#include "opapi/bodies.h"

namespace emu::opapi {
namespace {

constexpr double kLargest = 127;

}  // namespace

QuantisedRows quantise_rows(const Tensor& x) {
  const auto wide = x.to(at::kFloat);
  const auto scales = at::amax(at::abs(wide), Ints{-1}) / kLargest;
  const auto divisor = scales.masked_fill(scales == 0, 1).unsqueeze(-1);
  return {at::round(wide / divisor).clamp(-kLargest - 1, kLargest).to(at::kChar), scales};
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

void quant_matmul(const QuantMatmul& call, const Tensor& out) {
  const auto x = call.transpose_x ? call.x.transpose(-1, -2) : call.x;
  const auto weight = call.transpose_weight ? call.weight.transpose(-1, -2) : call.weight;
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
