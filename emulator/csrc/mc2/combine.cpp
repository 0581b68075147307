// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "hccl/communicator.h"
#include "mc2/exchange.h"
#include "opapi/bodies.h"

namespace emu::mc2 {
namespace {

// The rows that dispatch gave this rank, each back to where it came from.
Rows RowsToReturn(const Combine& call, Ints& to) {
  const auto count = call.send_counts.select(0, call.send_counts.numel() - 1).item<int64_t>();
  if (count < 0 || count > call.rows.size(0)) {
    throw std::runtime_error(
        c10::str("ep_send_counts end with ", count, "; expand_x has ", call.rows.size(0), " rows"));
  }
  const auto origins = OriginsOf(call.origins, count).contiguous();
  const auto origin = origins.accessor<int32_t, 2>();
  Rows rows;
  for (int64_t i = 0; i < count; ++i) {
    if (origin[i][0] < 0 || origin[i][0] >= call.layout.num_ranks) {
      throw std::runtime_error("assist_info_for_combine is not what dispatch gave");
    }
    rows.labels.push_back({static_cast<int32_t>(call.layout.rank), origin[i][1], origin[i][2], 0, 1});
    to.push_back(origin[i][0]);
  }
  rows.values = call.rows.slice(0, 0, count);
  return rows;
}

// By token and choice, [T, K, H] in float32. Each active choice must have come back, once.
Tensor Placed(const Rows& rows, const Tensor& active) {
  const int64_t top_k = active.size(1);
  const auto waiting = active.clone();
  auto waits = waiting.accessor<bool, 2>();
  const auto places = at::empty({static_cast<int64_t>(rows.labels.size())}, opapi::options(at::kLong));
  auto* place = places.mutable_data_ptr<int64_t>();
  for (const Label& label : rows.labels) {
    const bool fits =
        label.token >= 0 && label.token < active.size(0) && label.choice >= 0 && label.choice < top_k;
    if (!fits || !waits[label.token][label.choice]) {
      throw std::runtime_error(c10::str("rank ", label.rank, " returns choice ", label.choice, " of token ",
                                        label.token,
                                        ", which was not sent to it: combine does not fit its dispatch"));
    }
    waits[label.token][label.choice] = false;
    *place++ = label.token * top_k + label.choice;
  }
  if (waiting.any().item<bool>()) {
    throw std::runtime_error(c10::str("combine gets ", rows.labels.size(), " rows back for ",
                                      active.sum().item<int64_t>(),
                                      " active choices: it does not fit its dispatch"));
  }
  const auto flat = at::zeros({active.numel(), rows.values.size(1)}, opapi::options(at::kFloat));
  flat.index_copy_(0, places, rows.values.to(at::kFloat));
  return flat.view({active.size(0), top_k, -1});
}

}  // namespace

void run(const Combine& call) {
  const auto active = ActiveChoices(call.active, call.experts);
  const bool masked = !active.all().item<bool>();
  Ints to;
  const Rows rows = RowsToReturn(call, to);
  const Terms terms{hccl::Operation::kMoeCombine, call.rows.size(1),
                    call.experts.size(1),         call.quant_mode,
                    call.experts.size(0),         masked};
  const auto placed = Placed(Exchange(call.layout, terms, rows, to), active);
  auto sum = at::zeros({placed.size(0), placed.size(2)}, placed.options());
  for (int64_t choice = 0; choice < placed.size(1); ++choice) {
    sum = sum + placed.select(1, choice) * opapi::f32(call.weights).select(1, choice).unsqueeze(-1);
  }
  if (call.shared.defined()) sum = sum + opapi::f32(call.shared).reshape(sum.sizes());
  const auto tokens = active.any(1).nonzero().squeeze(1);
  call.out.index_copy_(0, tokens, sum.index_select(0, tokens).to(call.out.scalar_type()));
}

}  // namespace emu::mc2
