// SPDX-License-Identifier: Apache-2.0
// Mixture of experts: choosing experts, sorting tokens by expert, the experts' products, putting tokens together.
#pragma once

#include "opapi/operator.h"

namespace emu::opapi {

// The numbers of MoeGatingTopK.
struct Gating {
  int64_t k = 1;
  int64_t groups_kept = 1;
  int64_t num_groups = 1;
  int64_t group_score = 0;  // 0: the group's best expert, 1: the sum of its two best
  int64_t renorm = 0;
  int64_t norm = 0;  // 0 softmax, 1 sigmoid
  double scaling = 1;
  double epsilon = 0;
};
struct Gated {
  Tensor weights;  // [T, K]
  Tensor experts;  // [T, K]
  Tensor scores;   // [T, E] after the norm
};
Gated gate(const Tensor& x, const Tensor& bias, const Gating& gating);
Gated gate_softmax(const Tensor& x, const Tensor& finished, int64_t k, bool softmax_last);

// Tokens in the order of their experts.
struct Routing {
  Tensor order;   // [T * K] assignments sorted by expert; those of absent experts last
  Tensor place;   // [T * K] where an assignment went; -1 for absent experts
  Tensor counts;  // [end - begin]
  int64_t num_active = 0;
};
Routing route(const Tensor& experts, int64_t begin, int64_t end);

// The operands of MoeInitRoutingV3 and V2.
struct InitRouting {
  Tensor x, experts, scale;
  int64_t active_rows = 0, capacity = 0, begin = 0, end = 0;
  bool padded = false;
  bool scatter_index = false;
  bool quantised = false;  // rows are quantised, after a product with their expert's row of `scale`
  Tensor expanded_x, row_index, expanded_scale;
};
Routing init_routing(const InitRouting& call);
// How many tokens each expert got, in the form of `type`: 0 running totals, 1 counts, 2 pairs of expert and count.
void put_counts(const Tensor& out, const Routing& routing, int64_t type, int64_t first_expert);

struct Permuted {
  Tensor tokens, places;
};
Permuted permute_tokens(const Tensor& tokens, const Tensor& experts, int64_t num_rows);
Tensor unpermute_tokens(const Tensor& permuted, const Tensor& places, const Tensor& weights);

// The operands of MoeFinalizeRouting; undefined ones do not count.
struct Finalize {
  Tensor rows, places, skip1, skip2, bias, weights, experts;
  int64_t mode = 0;
};
Tensor finalize_routing(const Finalize& call);

// The operands of GroupedMatmul.
struct Grouped {
  Tensors x, weights, biases;
  Ints ends;  // of the groups; empty: each x has its weight
  int64_t group_type = 0, activation = 0;
  // of int8 rows: [N] of each weight, or [G, N], and [rows] of x; of int4 weights, int32 words of eight, also
  // [Q, N] or [G, Q, N] of Q groups of a weight's rows
  Tensors scales, row_scales;
};
void grouped_matmul(const Grouped& call, const Tensors& out);
// The groups' ends from a list in the form of `type`: 0 running totals, 1 sizes, 2 pairs of group and size.
Ints group_ends(const Tensor& list, int64_t type, int64_t num_groups);

}  // namespace emu::opapi
