// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>

#include "hccl/communicator.h"
#include "mc2/exchange.h"
#include "opapi/bodies.h"

namespace emu::mc2 {
namespace {

// A row for each active choice: of which token, for which expert.
struct Choices {
  std::vector<Label> labels;
  Ints tokens, experts, to;
};

Choices ChoicesOf(const Dispatch& call, const Tensor& active) {
  const auto experts = call.experts.contiguous();
  const auto expert_of = experts.accessor<int32_t, 2>();
  const auto is_active = active.accessor<bool, 2>();
  const int64_t num_local = call.layout.num_local();
  Choices choices;
  for (int64_t token = 0; token < experts.size(0); ++token) {
    std::set<int32_t> seen;
    for (int64_t choice = 0; choice < experts.size(1); ++choice) {
      if (!is_active[token][choice]) continue;
      const int32_t expert = expert_of[token][choice];
      if (expert < 0 || expert >= call.layout.num_experts || !seen.insert(expert).second) {
        throw std::runtime_error(c10::str("expert_ids of token ", token, " name expert ", expert, ", which is ",
                                          seen.count(expert) == 0 ? "none of the model's " : "there twice, of ",
                                          call.layout.num_experts));
      }
      choices.labels.push_back({static_cast<int32_t>(call.layout.rank), static_cast<int32_t>(token),
                                static_cast<int32_t>(choice), static_cast<int32_t>(expert % num_local), 1});
      choices.tokens.push_back(token);
      choices.experts.push_back(expert);
      choices.to.push_back(expert / num_local);
    }
  }
  return choices;
}

Tensor IndexOf(const Ints& values) { return at::tensor(values, opapi::options(at::kLong)); }

// Each row as int8 with a scale of its own; a row of zeros has scale zero.
void Quantise(const Dispatch& call, const Choices& choices, Rows& rows) {
  auto wide = rows.values.to(at::kFloat);
  if (call.scales.defined()) wide = wide * call.scales.index_select(0, IndexOf(choices.experts));
  const auto factor =
      at::div(at::scalar_tensor(127.0, opapi::options(at::kFloat)), at::amax(wide.abs(), Ints{-1}));
  const auto rounded = at::round(wide * factor.unsqueeze(-1)).masked_fill(factor.isinf().unsqueeze(-1), 0);
  rows.values = rounded.clamp(-128, 127).to(at::kChar);
  const auto scale = factor.reciprocal().contiguous();
  for (size_t i = 0; i < rows.labels.size(); ++i) rows.labels[i].scale = scale.const_data_ptr<float>()[i];
}

// The order of the rows in the output: by expert; exchanged rows are by rank already.
Ints ByExpert(const std::vector<Label>& labels) {
  Ints order(labels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return labels[a].expert < labels[b].expert; });
  return order;
}

void PutRows(const Dispatch& call, const Rows& rows) {
  const Ints order = ByExpert(rows.labels);
  const auto count = static_cast<int64_t>(order.size());
  const auto origins = at::zeros({count, 4}, opapi::options(at::kInt));
  const auto scales = at::empty({count}, opapi::options(at::kFloat));
  auto* origin = origins.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < count; ++i, origin += 4) {
    const Label& label = rows.labels[static_cast<size_t>(order[static_cast<size_t>(i)])];
    origin[0] = label.rank;
    origin[1] = label.token;
    origin[2] = label.choice;
    scales.mutable_data_ptr<float>()[i] = label.scale;
  }
  call.rows.slice(0, 0, count).copy_(rows.values.index_select(0, IndexOf(order)));
  OriginsOf(call.origins, count).copy_(origins);
  if (call.quant_mode == 2) call.row_scales.slice(0, 0, count).copy_(scales);
}

void PutCounts(const Dispatch& call, const Rows& rows) {
  const int64_t num_local = call.layout.num_local();
  const auto counts = at::zeros({num_local, call.layout.num_ranks}, opapi::options(at::kLong));
  auto count_of = counts.accessor<int64_t, 2>();
  for (const Label& label : rows.labels) ++count_of[label.expert][label.rank];
  const auto of_expert = counts.sum(1);
  opapi::put(call.counts, call.counts_form == 0 ? of_expert.cumsum(0) : of_expert);
  opapi::put(call.recv_counts, counts.flatten().cumsum(0));
  if (call.tp_counts.defined() && call.tp_counts.numel() > 0) {
    call.tp_counts.fill_(static_cast<int64_t>(rows.labels.size()));
  }
}

}  // namespace

void run(const Dispatch& call) {
  const auto active = ActiveChoices(call.active, call.experts);
  const Choices choices = ChoicesOf(call, active);
  Rows rows{choices.labels, call.x.index_select(0, IndexOf(choices.tokens))};
  if (call.quant_mode == 2) Quantise(call, choices, rows);
  const bool masked = static_cast<int64_t>(choices.labels.size()) < call.experts.numel();
  const Terms terms{hccl::Operation::kMoeDispatch,
                    call.x.size(1),
                    call.experts.size(1),
                    call.quant_mode,
                    call.x.size(0),
                    masked};
  const Rows received = Exchange(call.layout, terms, rows, choices.to);
  PutRows(call, received);
  PutCounts(call, received);
}

}  // namespace emu::mc2
