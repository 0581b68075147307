// SPDX-License-Identifier: Apache-2.0
#include "../binding.h"

#include "tiling.h"

namespace ascend_ext {
namespace {

void ExpertLoadAdd_(const at::Tensor& load_E, const at::Tensor& topk_ids_TK, const at::Tensor& num_tokens) {
  constexpr const char* kOp = "expert_load_add_";
  TORCH_CHECK_VALUE(load_E.dim() == 1 && topk_ids_TK.dim() == 2 && num_tokens.numel() == 1, kOp,
                    " takes load [E], topk_ids [T, K] and one num_tokens, not shapes ", load_E.sizes(), ", ",
                    topk_ids_TK.sizes(), " and ", num_tokens.sizes());
  CheckLoad(kOp, load_E);
  TORCH_CHECK_TYPE(IsInteger(topk_ids_TK) && num_tokens.scalar_type() == at::kInt, kOp,
                   " takes int32 or int64 topk_ids and int32 num_tokens, not ", topk_ids_TK.scalar_type(), " and ",
                   num_tokens.scalar_type());
  CheckOneDevice(kOp, load_E, {topk_ids_TK, num_tokens});
  if (topk_ids_TK.numel() == 0 || load_E.numel() == 0) return;

  const int64_t num_rows = topk_ids_TK.size(0), top_k = topk_ids_TK.size(1), num_experts = load_E.size(0);
  const int64_t id_bytes = static_cast<int64_t>(topk_ids_TK.element_size());
  ExpertLoadTiling tiling;
  CheckFits(kOp, TileExpertLoad(num_rows, top_k, num_experts, id_bytes, 1, &tiling),
            c10::str("a row of ", top_k, " ids beside ", num_experts, " counters"));
  const at::Tensor load = load_E.contiguous(), ids = topk_ids_TK.contiguous();
  LaunchOnCurrentStream(kOp, load,
                        [=, to = load.data_ptr(), from = ids.const_data_ptr(),
                         limit = num_tokens.const_data_ptr()](uint32_t num_cores, void* stream) {
                          return ascend_ext_launch_expert_load_add(num_cores, stream, to, from, limit, num_rows,
                                                                   top_k, num_experts, id_bytes);
                        });
  if (!load.is_same(load_E)) load_E.copy_(load);
}

}  // namespace
}  // namespace ascend_ext

TORCH_LIBRARY_IMPL(ascend_ext, PrivateUse1, m) { m.impl("expert_load_add_", ascend_ext::ExpertLoadAdd_); }
