// SPDX-License-Identifier: Apache-2.0
// Semantics from op-plugin's public API documentation of the operators (BSD-3 repository).
#include "opapi/moe.h"

#include <algorithm>
#include <limits>

#include "opapi/bodies.h"
#include "opapi/quantisation.h"

namespace emu::opapi {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Largest first; the lower index wins among equals.
Tensor BestIndices(const Tensor& scores, int64_t count) {
  return std::get<1>(at::sort(scores, /*stable=*/true, -1, /*descending=*/true)).slice(-1, 0, count);
}

Tensor WithoutOtherGroups(const Tensor& scores, const Gating& gating) {
  const auto grouped = scores.unflatten(-1, {gating.num_groups, -1});
  const auto group_scores =
      gating.group_score == 0 ? at::amax(grouped, Ints{-1}) : std::get<0>(at::topk(grouped, 2, -1)).sum(-1);
  const auto kept = at::zeros(group_scores.sizes(), options(at::kBool))
                        .scatter_(-1, BestIndices(group_scores, gating.groups_kept), Scalar(true));
  return grouped.masked_fill(kept.logical_not().unsqueeze(-1), -kInfinity).flatten(-2);
}

Tensor Activated(const Tensor& x, int64_t type) {
  switch (type) {
    case 0:
      return x;
    case 1:
      return at::relu(x);
    case 2:
      return at::gelu(x, "tanh");
    case 3:
      return at::gelu(x);
    case 4:
      return x * at::sigmoid(x * 1.702);
    case 5:
      return at::silu(x);
    default:
      not_emulated("activation " + std::to_string(type));
  }
}

// Row r of the result is x's row source[r]; a negative source leaves zeros.
Tensor RowsOrZero(const Tensor& x, const Tensor& source) {
  const auto rows = x.index_select(0, source.clamp_min(0));
  return rows.masked_fill(source.lt(0).unsqueeze(-1), 0);
}

// Tensor g of a list, or row g of a list's only tensor when that holds one row for each group.
Tensor OfGroup(const Tensors& tensors, size_t g, int64_t dims_of_one) {
  if (tensors.size() == 1 && tensors[0].dim() > dims_of_one) return tensors[0].select(0, static_cast<int64_t>(g));
  return tensors.at(g);
}

// The scales of group g, [N], or of an int4 weight also [Q, N] for Q groups of its rows.
Tensor ScalesOfGroup(const Grouped& call, size_t g) {
  const bool is_one_of_all = call.scales.size() == 1 && call.weights[0].dim() > 2;
  return is_one_of_all ? call.scales[0].select(0, static_cast<int64_t>(g)) : call.scales.at(g);
}

// As float32, without the row scales.
Tensor ScaledInt4Product(const Grouped& call, const Tensor& x, size_t g) {
  if (call.scales.empty() || call.biases.empty()) not_emulated("an int4 product without scales or bias");
  return int4_product({x, OfGroup(call.weights, g, 2), ScalesOfGroup(call, g), OfGroup(call.biases, g, 1)});
}

// As int32, without scales.
Tensor SumsOfProducts(const Grouped& call, const Tensor& x, size_t g) {
  const auto sums = integer_product(x, OfGroup(call.weights, g, 2));
  return call.biases.empty() ? sums : sums + OfGroup(call.biases, g, 1);
}

// As int32 without scales, else as float32. Rows [begin, begin + x's rows) of the row scales are those of x.
Tensor QuantisedProduct(const Grouped& call, const Tensor& x, size_t g, int64_t begin) {
  const bool is_int4 = call.weights[0].scalar_type() == at::kInt;
  if (!is_int4 && call.scales.empty()) return SumsOfProducts(call, x, g);
  auto y = is_int4 ? ScaledInt4Product(call, x, g)
                   : SumsOfProducts(call, x, g).to(at::kFloat) * scale_of(OfGroup(call.scales, g, 1));
  if (!call.row_scales.empty()) {
    y = y * call.row_scales[0].flatten().slice(0, begin, begin + x.size(0)).to(at::kFloat).unsqueeze(-1);
  }
  return Activated(y, call.activation);
}

Tensor Product(const Grouped& call, const Tensor& x, size_t g, int64_t begin) {
  if (x.scalar_type() == at::kChar) return QuantisedProduct(call, x, g, begin);
  if (!call.scales.empty() || !call.row_scales.empty()) not_emulated("scales of operands that are not int8");
  auto y = f32(at::matmul(x, OfGroup(call.weights, g, 2)));
  if (!call.biases.empty()) y = y + f32(OfGroup(call.biases, g, 1));
  return Activated(y, call.activation);
}

// The groups split the inner dimension: one product each.
void SplitInnerDimension(const Grouped& call, const Tensors& out) {
  int64_t begin = 0;
  for (size_t g = 0; g < call.ends.size(); ++g) {
    const auto x = call.x[0].slice(1, begin, call.ends[g]);
    const auto weight = call.weights[0].slice(0, begin, call.ends[g]);
    put(OfGroup(out, g, 2), at::matmul(x, weight));
    begin = call.ends[g];
  }
}

// Each x has its weight.
void MultiplyPairs(const Grouped& call, const Tensors& out) {
  int64_t begin = 0;
  for (size_t i = 0; i < call.x.size(); ++i) {
    const auto y = Product(call, call.x[i], i, begin);
    put(out.size() == call.x.size() ? out[i] : out[0].slice(0, begin, begin + y.size(0)), y);
    begin += y.size(0);
  }
}

// Rows beyond the last group stay as they are.
void SplitRows(const Grouped& call, const Tensors& out) {
  int64_t begin = 0;
  for (size_t g = 0; g < call.ends.size(); ++g) {
    const int64_t end = std::max(begin, call.ends[g]);
    if (end > begin) {
      const auto y = Product(call, call.x[0].slice(0, begin, end), g, begin);
      put(out.size() == 1 ? out[0].slice(0, begin, end) : out.at(g), y);
    }
    begin = end;
  }
}

}  // namespace

Gated gate(const Tensor& x, const Tensor& bias, const Gating& gating) {
  const auto wide = f32(x);
  const auto scores = gating.norm == 0 ? at::softmax(wide, -1) : at::sigmoid(wide);
  auto biased = bias.defined() ? scores + f32(bias) : scores;
  if (gating.num_groups > 1) biased = WithoutOtherGroups(biased, gating);
  const auto experts = BestIndices(biased, gating.k);
  auto weights = scores.gather(-1, experts);
  if (gating.norm == 1 || gating.renorm == 1) weights = weights / (weights.sum(-1, true) + gating.epsilon);
  return {weights * gating.scaling, experts, scores};
}

Gated gate_softmax(const Tensor& x, const Tensor& finished, int64_t k, bool softmax_last) {
  const auto wide = f32(x);
  const auto scores = at::softmax(wide, -1);
  auto experts = BestIndices(wide, k);
  const auto weights = softmax_last ? at::softmax(wide.gather(-1, experts), -1) : scores.gather(-1, experts);
  if (finished.defined()) experts = experts.masked_fill(finished.to(at::kBool).unsqueeze(-1), x.size(-1));
  return {weights, experts, scores};
}

Routing route(const Tensor& experts, int64_t begin, int64_t end) {
  const auto flat = i64(experts).flatten();
  const auto present = flat.ge(begin).logical_and(flat.lt(end));
  const auto keys = flat.masked_fill(present.logical_not(), std::numeric_limits<int64_t>::max());
  Routing routing;
  routing.order = at::argsort(keys, /*stable=*/true, 0, /*descending=*/false);
  routing.num_active = present.sum().item<int64_t>();
  routing.place = at::full({flat.numel()}, -1, options(at::kLong));
  routing.place.index_copy_(0, routing.order.slice(0, 0, routing.num_active),
                            at::arange(routing.num_active, options(at::kLong)));
  routing.counts = at::bincount(flat.masked_select(present) - begin, {}, end - begin);
  return routing;
}

Routing init_routing(const InitRouting& call) {
  auto routing = route(call.experts, call.begin, call.end);
  const int64_t k = call.experts.size(-1);
  if (call.padded && call.quantised) not_emulated("quantising rows of padded experts");
  if (call.padded) {  // each expert has `capacity` rows: more tokens are dropped, fewer leave zeros
    const auto starts = routing.counts.cumsum(0) - routing.counts;
    const auto sorted = routing.order.slice(0, 0, routing.num_active);
    const auto expert = i64(call.experts).flatten().index_select(0, sorted);
    const auto within = at::arange(routing.num_active, options(at::kLong)) - starts.index_select(0, expert);
    const auto kept = within.lt(call.capacity);
    const auto rows = (expert * call.capacity + within).masked_select(kept);
    const auto from = sorted.masked_select(kept);
    call.expanded_x.zero_();
    call.expanded_x.flatten(0, 1).index_copy_(0, rows, call.x.index_select(0, from.div(k, "floor")));
    routing.place.fill_(-1).index_copy_(0, from, rows);
    put(call.row_index, routing.place);
    return routing;
  }
  const int64_t most = call.active_rows <= 0 ? routing.num_active : call.active_rows;
  const int64_t limit = std::min(most, routing.num_active);
  const auto tokens = routing.order.slice(0, 0, limit).div(k, "floor");
  if (call.quantised) {
    auto rows = f32(call.x).index_select(0, tokens);
    if (call.scale.defined()) {
      const auto experts = i64(call.experts).flatten().index_select(0, routing.order.slice(0, 0, limit));
      rows = rows * call.scale.index_select(0, experts - call.begin);
    }
    const auto result = quantise_rows(rows);
    call.expanded_x.slice(0, 0, limit).copy_(result.values);
    call.expanded_scale.slice(0, 0, limit).copy_(result.scales);
  } else {
    call.expanded_x.slice(0, 0, limit).copy_(call.x.index_select(0, tokens));
  }
  if (!call.quantised && call.scale.defined() && call.expanded_scale.defined()) {
    call.expanded_scale.slice(0, 0, limit).copy_(call.scale.index_select(0, tokens));
  }
  if (call.scatter_index) {
    call.row_index.slice(0, 0, routing.num_active).copy_(routing.order.slice(0, 0, routing.num_active));
  } else {
    put(call.row_index, routing.place);
  }
  return routing;
}

void put_counts(const Tensor& out, const Routing& routing, int64_t type, int64_t first_expert) {
  if (type == 0) {
    put(out, routing.counts.cumsum(0));
  } else if (type == 1) {
    put(out, routing.counts);
  } else {
    const auto used = routing.counts.nonzero().flatten();
    const auto pairs = at::stack({used + first_expert, routing.counts.index_select(0, used)}, 1);
    out.slice(0, 0, pairs.size(0)).copy_(pairs);
    if (pairs.size(0) < out.size(0)) out[pairs.size(0)].zero_();  // ends the list
  }
}

Permuted permute_tokens(const Tensor& tokens, const Tensor& experts, int64_t num_rows) {
  const int64_t k = experts.dim() == 1 ? 1 : experts.size(1);
  const auto order = at::argsort(i64(experts).flatten(), /*stable=*/true, 0, /*descending=*/false);
  const auto places = at::argsort(order, /*stable=*/true, 0, /*descending=*/false);
  return {tokens.index_select(0, order.slice(0, 0, num_rows).div(k, "floor")), places};
}

Tensor unpermute_tokens(const Tensor& permuted, const Tensor& places, const Tensor& weights) {
  const int64_t k = weights.defined() ? weights.size(1) : 1;
  auto source = i64(places);
  source = source.masked_fill(source.ge(permuted.size(0)), -1);
  auto rows = f32(RowsOrZero(permuted, source)).unflatten(0, {-1, k});
  if (weights.defined()) {
    // Expert-parallel ranks give absent experts the weight 0 and never write their rows.
    const auto factor = f32(weights).unsqueeze(-1);
    rows = (rows * factor).masked_fill(factor == 0, 0);
  }
  return rows.sum(1);
}

Tensor finalize_routing(const Finalize& call) {
  const int64_t k = call.weights.defined() ? call.weights.size(1) : 1;
  const auto by_row = call.mode >= 2 ? i64(call.places).view({-1, k}) : i64(call.places).view({k, -1}).t();
  const auto flat = by_row.reshape(-1);
  auto rows = f32(RowsOrZero(call.rows.reshape({-1, call.rows.size(-1)}), flat)).unflatten(0, {-1, k});
  if (call.bias.defined()) rows = rows + f32(call.bias).index_select(0, i64(call.experts).flatten()).view_as(rows);
  if (call.weights.defined()) rows = rows * f32(call.weights).unsqueeze(-1);
  auto sum = rows.sum(1);
  if (call.skip1.defined()) sum = sum + f32(call.skip1);
  if (call.skip2.defined()) sum = sum + f32(call.skip2);
  return sum;
}

Ints group_ends(const Tensor& list, int64_t type, int64_t num_groups) {
  if (!list.defined() || list.numel() == 0) return {};
  const auto values = i64(list);
  Ints ends;
  if (type == 2) {
    Ints sizes(static_cast<size_t>(num_groups), 0);
    for (int64_t i = 0; i < values.size(0) && values[i][1].item<int64_t>() > 0; ++i) {
      sizes.at(values[i][0].item<int64_t>()) = values[i][1].item<int64_t>();
    }
    for (const auto size : sizes) ends.push_back((ends.empty() ? 0 : ends.back()) + size);
    return ends;
  }
  for (int64_t i = 0; i < values.numel(); ++i) {
    const int64_t before = type == 1 && !ends.empty() ? ends.back() : 0;
    ends.push_back(before + values[i].item<int64_t>());
  }
  return ends;
}

void grouped_matmul(const Grouped& call, const Tensors& out) {
  if (call.group_type == 2) {
    SplitInnerDimension(call, out);
  } else if (call.ends.empty() || call.x.size() > 1) {
    MultiplyPairs(call, out);
  } else {
    SplitRows(call, out);
  }
}

}  // namespace emu::opapi
