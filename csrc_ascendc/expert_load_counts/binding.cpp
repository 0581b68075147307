// SPDX-License-Identifier: Apache-2.0
#include "../binding.h"

namespace ascend_ext {
namespace {

void ExpertLoadAddCounts_(const at::Tensor& load_E, const at::Tensor& counts_E, bool is_cumsum) {
  constexpr const char* kOp = "expert_load_add_counts_";
  TORCH_CHECK_VALUE(load_E.dim() == 1 && counts_E.sizes() == load_E.sizes(), kOp,
                    " takes load [E] and counts [E], not shapes ", load_E.sizes(), " and ", counts_E.sizes());
  CheckLoad(kOp, load_E);
  TORCH_CHECK_TYPE(IsInteger(counts_E), kOp, " takes int32 or int64 counts, not ", counts_E.scalar_type());
  CheckOneDevice(kOp, load_E, {counts_E});
  if (load_E.numel() == 0) return;

  const int64_t num_experts = load_E.size(0), count_bytes = static_cast<int64_t>(counts_E.element_size());
  const at::Tensor load = load_E.contiguous(), counts = counts_E.contiguous();
  LaunchOnCurrentStream(
      kOp, load, [=, to = load.data_ptr(), from = counts.const_data_ptr()](uint32_t num_cores, void* stream) {
        return ascend_ext_launch_expert_load_add_counts(num_cores, stream, to, from, num_experts, count_bytes,
                                                        is_cumsum);
      });
  if (!load.is_same(load_E)) load_E.copy_(load);
}

}  // namespace
}  // namespace ascend_ext

TORCH_LIBRARY_IMPL(ascend_ext, PrivateUse1, m) {
  m.impl("expert_load_add_counts_", ascend_ext::ExpertLoadAddCounts_);
}
