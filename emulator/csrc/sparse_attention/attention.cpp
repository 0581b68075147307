// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "opapi/bodies.h"
#include "sparse_attention/sparse_attention.h"

namespace emu::sparse {
namespace {

using opapi::f32;

constexpr int64_t kQueriesAtOnce = 128;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void RequireIndices(bool fulfilled, int64_t request, const char* what) {
  if (!fulfilled) throw std::runtime_error(c10::str("sparse_indices of request ", request, what));
}

// True where a query must not see a key, [S, keys]: those that none of its indices [S, K] stands for.
Tensor Unchosen(const Tensor& indices, int64_t block, int64_t keys, int64_t request) {
  const int64_t queries = indices.size(0), blocks = (keys + block - 1) / block;
  const auto valid = indices >= 0;
  RequireIndices(!valid.slice(1, 1).logical_and(valid.slice(1, 0, -1).logical_not()).any().item().toBool(),
                 request, ": one stands behind the end of its row");
  RequireIndices((indices >= blocks).any().item().toBool() == false, request, ": one is not among the keys");
  auto times = at::zeros({queries, blocks + 1}, opapi::options(at::kInt));
  const auto places = indices.masked_fill(valid.logical_not(), blocks);
  times.scatter_add_(1, places, at::ones_like(places, opapi::options(at::kInt)));
  const auto chosen = times.slice(1, 0, blocks);
  RequireIndices((chosen > 1).any().item().toBool() == false, request, ": one is named twice");
  return chosen.eq(0).repeat_interleave(block, 1).slice(1, 0, keys);
}

// [S, N, D] of queries [S, N, D + rope], keys [K, D + rope] and values [K, D].
Tensor Attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& hidden, double scale) {
  const int64_t queries = query.size(0), heads = query.size(1);
  auto scores = (at::matmul(query.flatten(0, 1), key.t()) * scale).unflatten(0, {queries, heads});
  scores = scores.masked_fill(hidden.unsqueeze(1), -kInfinity);
  // A query that sees nothing has the value 0.
  const auto weights = at::softmax(scores, -1).masked_fill(hidden.all(-1).view({queries, 1, 1}), 0);
  return at::matmul(weights.flatten(0, 1), value).unflatten(0, {queries, heads});
}

}  // namespace

void run(const Attention& call) {
  call.out.zero_();
  for (const auto& request : RequestsOf(call.batch, call.query, call.key)) {
    if (request.num_keys == 0) continue;
    const auto value = f32(KeysOf(call.batch, call.value, request)).contiguous();
    const auto key = at::cat({value, f32(KeysOf(call.batch, call.key_rope, request))}, -1);
    const auto rope = PartOf(call.batch, call.query_rope, request);
    const auto indices = PartOf(call.batch, call.indices, request).select(1, 0);
    const auto out = PartOf(call.batch, call.out, request);
    const int64_t first = FirstLimit(call.batch, request), step = call.batch.sparse_mode == 0 ? 0 : 1;
    const auto place = at::arange(request.num_keys, opapi::options(at::kLong)).unsqueeze(0);
    for (int64_t begin = 0; begin < request.query.size(0); begin += kQueriesAtOnce) {
      const auto end = std::min(begin + kQueriesAtOnce, request.query.size(0));
      auto hidden = Unchosen(opapi::i64(indices.slice(0, begin, end)), call.sparse_block_size, request.num_keys,
                             request.index);
      const auto limits = at::arange(begin, end, opapi::options(at::kLong)) * step + first;
      hidden = hidden.logical_or(place >= limits.unsqueeze(1));
      const auto query = at::cat({f32(request.query.slice(0, begin, end)), f32(rope.slice(0, begin, end))}, -1);
      out.slice(0, begin, end).copy_(Attend(query, key, value, hidden, call.scale));
    }
  }
}

}  // namespace emu::sparse
