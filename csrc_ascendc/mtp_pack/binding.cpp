// SPDX-License-Identifier: Apache-2.0
#include "../binding.h"

#include "tiling.h"

namespace ascend_ext {
namespace {

constexpr const char* kOp = "mtp_pack_output";
using Optional = std::optional<at::Tensor>;

// One argument as the operator must get it; `name` as the Python side calls it.
void CheckArgument(const char* name, const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType type,
                   const at::Tensor& token_ids_BS) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, kOp, " takes ", name, " ", shape, " beside token_ids ",
                    token_ids_BS.sizes(), ", not shape ", tensor.sizes());
  TORCH_CHECK_TYPE(tensor.scalar_type() == type, kOp,
                   " takes int32 tensors, and float32 for the log-probabilities, "
                   "not ",
                   name, " of ", tensor.scalar_type());
  CheckOneDevice(kOp, token_ids_BS, {tensor});
}

// K, 0 without top-k.
int64_t CheckArguments(const at::Tensor& token_ids_BS, const at::Tensor& num_accepted_B,
                       const at::Tensor& status_B, const Optional& topk_ids_BSK, const Optional& topk_logprobs_BSK,
                       const Optional& token_ranks_BS) {
  TORCH_CHECK_VALUE(token_ids_BS.dim() == 2 && token_ids_BS.size(1) > 0, kOp,
                    " takes token_ids [B, S] with S >= 1, not shape ", token_ids_BS.sizes());
  const int64_t batch = token_ids_BS.size(0), slots = token_ids_BS.size(1);
  CheckArgument("token_ids", token_ids_BS, {batch, slots}, at::kInt, token_ids_BS);
  CheckArgument("num_accepted", num_accepted_B, {batch}, at::kInt, token_ids_BS);
  CheckArgument("status", status_B, {batch}, at::kInt, token_ids_BS);
  const int num_given = topk_ids_BSK.has_value() + topk_logprobs_BSK.has_value() + token_ranks_BS.has_value();
  TORCH_CHECK_VALUE(num_given == 0 || num_given == 3, kOp,
                    " takes top-k ids, log-probabilities and ranks together or none of them");
  if (num_given == 0) return 0;
  TORCH_CHECK_VALUE(topk_ids_BSK->dim() == 3 && topk_ids_BSK->size(2) > 0, kOp,
                    " takes top-k ids [B, S, K] with K >= 1, not shape ", topk_ids_BSK->sizes());
  const int64_t top_k = topk_ids_BSK->size(2);
  CheckArgument("top-k ids", *topk_ids_BSK, {batch, slots, top_k}, at::kInt, token_ids_BS);
  CheckArgument("log-probabilities", *topk_logprobs_BSK, {batch, slots, top_k}, at::kFloat, token_ids_BS);
  CheckArgument("ranks", *token_ranks_BS, {batch, slots}, at::kInt, token_ids_BS);
  return top_k;
}

at::Tensor Contiguous(const Optional& tensor) { return tensor.has_value() ? tensor->contiguous() : at::Tensor(); }
const void* AddressOf(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

at::Tensor MtpPackOutput(const at::Tensor& token_ids_BS, const at::Tensor& num_accepted_B,
                         const at::Tensor& status_B, const Optional& topk_ids_BSK,
                         const Optional& topk_logprobs_BSK, const Optional& token_ranks_BS) {
  const int64_t top_k =
      CheckArguments(token_ids_BS, num_accepted_B, status_B, topk_ids_BSK, topk_logprobs_BSK, token_ranks_BS);
  const int64_t batch = token_ids_BS.size(0), slots = token_ids_BS.size(1);
  MtpPackTiling tiling;
  CheckFits(kOp, TileMtpPack(batch, slots, top_k, 1, &tiling),
            c10::str("a record of ", slots, " slots and top-k ", top_k));
  const at::Tensor tokens = token_ids_BS.contiguous(), accepted = num_accepted_B.contiguous(),
                   status = status_B.contiguous(), ids = Contiguous(topk_ids_BSK),
                   logs = Contiguous(topk_logprobs_BSK), ranks = Contiguous(token_ranks_BS);
  const at::Tensor out_BW = tokens.new_empty({batch, static_cast<int64_t>(tiling.record_words)});
  LaunchOnCurrentStream(kOp, tokens,
                        [=, out = out_BW.data_ptr(), token = AddressOf(tokens), number = AddressOf(accepted),
                         state = AddressOf(status), top = AddressOf(ids), log = AddressOf(logs),
                         rank = AddressOf(ranks)](uint32_t num_cores, void* stream) {
                          return ascend_ext_launch_mtp_pack_output(num_cores, stream, out, token, number, state,
                                                                   top, log, rank, batch, slots, top_k);
                        });
  return out_BW;
}

}  // namespace
}  // namespace ascend_ext

TORCH_LIBRARY_IMPL(ascend_ext, PrivateUse1, m) { m.impl("mtp_pack_output", ascend_ext::MtpPackOutput); }
