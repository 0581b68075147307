// SPDX-License-Identifier: Apache-2.0
// What MC2 refuses. The numbers are those documented for an A2 with "fullmesh" and for an A3, whose least hidden
// size, 1024, and half types are not asked for, so that small float32 models can be compared with a reference.
#include <set>
#include <stdexcept>

#include "core/settings.h"
#include "hccl/communicator.h"
#include "mc2/mc2.h"

namespace emu::mc2 {
namespace {

constexpr int64_t kMostExperts = 1024, kMostTopK = 16, kOriginInts = 128;

struct Bounds {
  int64_t tokens, hidden, hidden_step;
};
constexpr Bounds kA2 = {256, 7168, 32}, kA3 = {512, 8192, 1};
constexpr int64_t kMostRanksOfA3 = 768, kMostLocalOfA2 = 24;

bool IsA2() { return GetSettings().soc.rfind("Ascend910B", 0) == 0; }
bool IsA3() { return GetSettings().soc.rfind("Ascend910_93", 0) == 0; }

template <typename... Parts>
void Require(bool fulfilled, const Parts&... parts) {
  if (!fulfilled) throw std::runtime_error(c10::str(parts...));
}

int64_t Aligned(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

int64_t WindowOfA2(const Layout& layout, int64_t hidden, int64_t top_k) {
  const int64_t rows = layout.max_tokens() * layout.num_ranks * std::min(layout.num_local(), top_k);
  return 2 * (rows * hidden * 2 + (2 << 20));
}

int64_t WindowOfA3(const Layout& layout, int64_t hidden, int64_t top_k) {
  const int64_t packet = Aligned(Aligned(2 * hidden, 32) + 64, 512), row = Aligned(2 * hidden, 512);
  const int64_t tokens = layout.max_tokens();
  return 2 * (layout.num_local() * tokens * layout.num_ranks * packet +
              (top_k + layout.shared_experts) * tokens * row);
}

void CheckWindow(const Layout& layout, int64_t hidden, int64_t top_k) {
  const int64_t needed = IsA2() ? WindowOfA2(layout, hidden, top_k) : WindowOfA3(layout, hidden, top_k);
  const auto window = static_cast<int64_t>(layout.group.communicator->window_mib) << 20;
  Require(needed <= window, "the communicator's window of ", window >> 20,
          " MiB (HCCL_BUFFSIZE) is too small: ", layout.max_tokens(), " tokens a rank, hidden ", hidden, ", top ",
          top_k, ", ", layout.num_local(), " experts on each of ", layout.num_ranks, " ranks need ",
          Aligned(needed, 1 << 20) >> 20, " MiB");
}

void CheckA2(const Layout& layout) {
  const std::set<int64_t> sizes = {16, 32, 64, 128, 256};
  Require(sizes.count(layout.num_ranks) == 1, "ep_world_size ", layout.num_ranks,
          " is none of 16, 32, 64, 128 and 256, which an A2 has");
  Require(layout.num_tp_ranks == 0, "tp_world_size ", layout.num_tp_ranks, " must be 0 on an A2");
  Require(layout.num_local() <= kMostLocalOfA2, layout.num_local(), " experts on a rank; an A2 has at most ",
          kMostLocalOfA2);
  Require(layout.algorithm.empty() || layout.algorithm == "fullmesh", "comm_alg '", layout.algorithm,
          "' is not emulated");
  Require(layout.algorithm == "fullmesh" || !GetSettings().hierarchical,
          "the hierarchical way (HCCL_INTRA_PCIE_ENABLE=1 with HCCL_INTRA_ROCE_ENABLE=0) is not emulated");
}

void CheckA3(const Layout& layout) {
  Require(IsA3(), "emulated for an A2 (Ascend910B...) and an A3 (EMULATOR_SOC=Ascend910_9391), not for ",
          GetSettings().soc);
  Require(layout.num_ranks >= 2 && layout.num_ranks <= kMostRanksOfA3, "ep_world_size ", layout.num_ranks,
          " is not in [2, ", kMostRanksOfA3, "]");
  Require(layout.num_tp_ranks <= 1, "tp_world_size ", layout.num_tp_ranks, " is not emulated");
  Require(layout.algorithm.empty(), "comm_alg '", layout.algorithm, "' is not emulated");
}

void CheckLayout(const Layout& layout) {
  const auto& ranks = *layout.group.communicator;
  Require(layout.num_ranks == ranks.num_ranks(), "ep_world_size ", layout.num_ranks, ", but communicator ",
          ranks.name(), " has ", ranks.num_ranks(), " ranks");
  Require(layout.rank == ranks.rank(), "ep_rank_id ", layout.rank, ", but this is rank ", ranks.rank(),
          " of communicator ", ranks.name());
  Require(layout.shared_ranks == 0 && layout.shard_type == 0, "ranks with shared experts are not emulated");
  Require(layout.shared_experts >= 0 && layout.shared_experts <= 4, "shared_expert_num is not in [0, 4]");
  Require(layout.num_experts >= 1 && layout.num_experts <= kMostExperts, "moe_expert_num ", layout.num_experts,
          " is not in [1, ", kMostExperts, "]");
  Require(layout.num_experts % layout.num_ranks == 0, "moe_expert_num ", layout.num_experts,
          " is not divisible by the ", layout.num_ranks, " ranks");
  Require(layout.global_batch % layout.num_ranks == 0, "global_bs ", layout.global_batch,
          " is not divisible by the ", layout.num_ranks, " ranks");
  IsA2() ? CheckA2(layout) : CheckA3(layout);
}

// The tokens of this rank and what is chosen for them.
void CheckTokens(const Layout& layout, int64_t hidden, const Tensor& experts, const Tensor& active) {
  Require(experts.dim() == 2 && experts.scalar_type() == at::kInt,
          "expert_ids must be int32 and have two dimensions");
  const int64_t tokens = experts.size(0), top_k = experts.size(1);
  Require(top_k >= 1 && top_k <= kMostTopK && top_k <= layout.num_experts, "top ", top_k, " of ",
          layout.num_experts, " experts: K must be in [1, ", kMostTopK, "] and not exceed the experts");
  const Bounds& bounds = IsA2() ? kA2 : kA3;
  Require(tokens >= 1 && tokens <= bounds.tokens, tokens, " tokens: BS must be in [1, ", bounds.tokens, "]");
  Require(tokens <= layout.max_tokens(), tokens, " tokens exceed the ", layout.max_tokens(),
          " a rank that global_bs ", layout.global_batch, " allows");
  Require(hidden >= 1 && hidden <= bounds.hidden, "hidden size ", hidden, " is not in [1, ", bounds.hidden, "]");
  Require(hidden % bounds.hidden_step == 0, "hidden size ", hidden, " is no multiple of ", bounds.hidden_step);
  if (active.defined()) {
    Require(active.dim() == 1 || !IsA2(), "an A2 takes no x_active_mask of choices, only of tokens");
    const bool fits = active.dim() == 1 || (active.dim() == 2 && active.size(1) == top_k);
    Require(fits && active.size(0) == tokens && active.scalar_type() == at::kBool, "x_active_mask must be bool, [",
            tokens, "] or [", tokens, ", ", top_k, "]");
  }
  CheckWindow(layout, hidden, top_k);
}

void CheckCapacity(const Layout& layout, int64_t top_k, const Tensor& rows, const Tensor& origins,
                   const Tensor& counts) {
  const int64_t capacity = layout.global_batch * std::min(layout.num_local(), top_k);
  Require(rows.size(0) >= capacity, "expand_x has ", rows.size(0), " rows; it must have ", capacity,
          " (global_bs times the lesser of local experts and K)");
  Require(origins.numel() >= capacity * kOriginInts, "assist_info_for_combine must have ", capacity * kOriginInts,
          " elements");
  Require(counts.numel() == layout.num_ranks * layout.num_local(), "ep_recv_counts must have ",
          layout.num_ranks * layout.num_local(), " elements");
}

}  // namespace

void check(const Dispatch& call) {
  CheckLayout(call.layout);
  Require(!call.expert_scales.defined(),
          "expert_scales belong to an A2's hierarchical way, which is not emulated");
  Require(call.x.dim() == 2 && call.experts.dim() == 2 && call.x.size(0) == call.experts.size(0),
          "x and expert_ids must have two dimensions, and as many tokens");
  CheckTokens(call.layout, call.x.size(1), call.experts, call.active);
  CheckCapacity(call.layout, call.experts.size(1), call.rows, call.origins, call.recv_counts);
  Require(call.quant_mode == 0 || call.quant_mode == 2, "quant_mode ", call.quant_mode, " is neither 0 nor 2");
  const auto rows_type = call.quant_mode == 0 ? call.x.scalar_type() : at::kChar;
  Require(call.rows.scalar_type() == rows_type, "expand_x must have dtype ", rows_type);
  Require(call.quant_mode == 2 || !call.scales.defined(), "scales need quant_mode 2");
  Require(!call.scales.defined() || call.scales.sizes() == Ints({call.layout.num_experts, call.x.size(1)}),
          "scales must be [", call.layout.num_experts, ", ", call.x.size(1), "]");
  Require(call.quant_mode == 0 || call.row_scales.defined(), "dynamic_scales must be there for quant_mode 2");
  Require(call.counts_form == 0 || call.counts_form == 1, "expert_token_nums_type must be 0 or 1");
}

void check(const Combine& call) {
  CheckLayout(call.layout);
  Require(call.rows.dim() == 2, "expand_x must have two dimensions");
  CheckTokens(call.layout, call.rows.size(1), call.experts, call.active);
  CheckCapacity(call.layout, call.experts.size(1), call.rows, call.origins, call.send_counts);
  Require(call.weights.sizes() == call.experts.sizes(), "expert_scales must have the shape of expert_ids");
  Require(call.quant_mode == 0 && call.out_dtype == 0, "comm_quant_mode ", call.quant_mode, " is not emulated");
  Require(!call.activation_scale.defined() && !call.weight_scale.defined() && !call.group_list.defined(),
          "activation_scale, weight_scale and group_list are reserved");
  Require(!call.shared.defined() || call.shared.numel() == call.out.numel(), "shared_expert_x must have ",
          call.out.numel(), " elements");
}

}  // namespace emu::mc2
