// SPDX-License-Identifier: Apache-2.0
// MoE dispatch and combine as an A2 and an A3 have them: each rank sends every chosen expert's rank its tokens,
// and gets the experts' results back. Arguments and limits: op-plugin's calls and its documentation of
// npu_moe_distribute_dispatch_v2 and npu_moe_distribute_combine_v2 (BSD-3).
// T tokens, K experts a token, H hidden, A rows that a rank can receive.
#pragma once

#include <string>

#include "opapi/operator.h"

namespace emu::mc2 {

using opapi::Group;
using opapi::Ints;
using opapi::Tensor;

// Who takes part.
struct Layout {
  Group group;
  int64_t num_ranks, rank, num_experts;
  int64_t num_tp_ranks, shard_type, shared_experts, shared_ranks;
  int64_t global_batch;  // the most tokens of a rank, times the ranks
  std::string algorithm;

  int64_t num_local() const { return num_experts / num_ranks; }
  int64_t max_tokens() const { return global_batch / num_ranks; }
};

struct Dispatch {
  Layout layout;
  Tensor x, experts, scales;   // [T, H], [T, K], [experts, H] or undefined
  Tensor active;               // [T], [T, K] or undefined
  Tensor expert_scales;        // must be undefined
  int64_t quant_mode;          // 0, or 2: int8, a scale for each row
  int64_t counts_form;         // 0 running totals, 1 counts
  Tensor rows, row_scales;     // [A, H], [A]
  Tensor origins;              // [A * 128]: of each row source rank, token and choice
  Tensor counts, recv_counts;  // [local experts], [local experts * ranks] running totals
  Tensor tp_counts;            // [TP ranks]
};
void check(const Dispatch& call);  // throws std::runtime_error
void run(const Dispatch& call);

struct Combine {
  Layout layout;
  Tensor rows, experts, origins, send_counts;         // as dispatch gave them
  Tensor weights;                                     // [T, K]
  Tensor active, shared;                              // [T], [T, K]; [T, H]; both may be undefined
  Tensor activation_scale, weight_scale, group_list;  // must be undefined
  int64_t out_dtype, quant_mode;
  Tensor out;  // [T, H]; rows without an active choice stay as they are
};
void check(const Combine& call);
void run(const Combine& call);

}  // namespace emu::mc2
