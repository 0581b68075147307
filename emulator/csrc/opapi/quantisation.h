// SPDX-License-Identifier: Apache-2.0
// Integer products: rows quantised to int8, exact sums of products, and their scales.
#pragma once

#include "opapi/operator.h"

namespace emu::opapi {

struct QuantisedRows {
  Tensor values;   // int8, as x, or int32 words of eight int4 values
  Tensor scales;   // float32, without the last dimension
  Tensor offsets;  // as scales; undefined: none
};
// Each row (last dimension) by its own scale, its largest absolute value / 127. A row of zeros keeps the scale 0.
QuantisedRows quantise_rows(const Tensor& x);
// The same to int8 or, where `type` is int32, to int4, from the smallest to the largest value where it `shifts`.
QuantisedRows quantise_rows(const Tensor& x, at::ScalarType type, bool shifts);
// x times the smoothing scales, one row of them for each group of rows of x where there are `groups`, whose ends
// they say.
Tensor smoothed(const Tensor& x, const Tensor& scales, const Tensor& groups);

// round(x / scale + offset), or round(x * scale + offset), as int8; the offset may be undefined.
Tensor scaled_to_int8(const Tensor& x, const Tensor& scale, const Tensor& offset, bool divides);

// The exact sums of an int8 product as int32.
Tensor integer_product(const Tensor& a, const Tensor& b);

// A scale as float32. An int64 holds the bits of one (TransQuantParam).
Tensor scale_of(const Tensor& scale);
// The reverse.
Tensor scale_bits(const Tensor& scale);

// Int4 values of int32 words, which hold eight each, the first in the lowest bits: int8 [..., 8 N] from [..., N].
Tensor unpack_int4(const Tensor& words);

// Products of int8 rows x [M, K] and int4 weights, int32 words [K, N / 8].
struct Int4Product {
  Tensor x, words;
  Tensor scale;  // [Q, N] of Q groups of rows of the weight, or [N]
  Tensor bias;   // [N]
};
// The scaled products as float32 [M, N]. The rows' values are lowered by 8 before they are multiplied; the bias, 8
// times the sum of the scaled weights, makes up for it.
Tensor int4_product(const Int4Product& call);

// The reverse of int8 values that fit into four bits: int32 [..., N / 8] from [..., N].
Tensor pack_int4(const Tensor& values);

// Products of floating-point rows x [.., M, K] and quantised weights [.., K, N]: int8, or int4 in int32 words that
// hold eight of the dimension whose elements lie together. Undefined ones do not count.
struct WeightQuantMatmul {
  Tensor x, weight;
  Tensor scale, offset;              // [G, N] of G groups of rows of the weight, [N] or [1]
  Tensor quant_scale, quant_offset;  // of an int8 result
  Tensor bias;                       // [N]
  int64_t group_size = 0;
};
void weight_quant_matmul(const WeightQuantMatmul& call, const Tensor& out);

// Writes p1 x p2 of each matrix of x [B, M, N], p1 [M, M] and p2 [N, N], as int4 in int32 words, and its scale
// [B].
void flat_quant(const Tensors& x_p1_p2, double clip_ratio, const Tensor& out, const Tensor& scales);

// The operands of QuantMatmul; undefined ones do not count.
struct QuantMatmul {
  Tensor x, weight;
  Tensor row_scale;     // [M]
  Tensor column_scale;  // [N] or [1]
  Tensor bias;          // [N]: int32 is added to the sums, others to the scaled result
  bool transpose_x = false, transpose_weight = false;
};
// Writes the scaled product, or, into int32, the sums themselves.
void quant_matmul(const QuantMatmul& call, const Tensor& out);

}  // namespace emu::opapi
