// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "opapi/bodies.h"
#include "sparse_attention/sparse_attention.h"

namespace emu::sparse {
namespace {

using opapi::f32;

constexpr int64_t kQueriesAtOnce = 128;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The chosen places [S, K] of queries [S, N, D], of which the first sees `limit` keys and each further one `step`
// more.
Tensor Chosen(const Tensor& query, const Tensor& key, const Tensor& weights, int64_t limit, int64_t step,
              int64_t count) {
  const int64_t queries = query.size(0), heads = query.size(1), keys = key.size(0);
  const auto alike = at::relu(at::matmul(query.flatten(0, 1), key.t())).unflatten(0, {queries, heads});
  auto scores = at::bmm(weights.unsqueeze(1), alike).squeeze(1);
  const auto place = at::arange(keys, opapi::options(at::kLong)).unsqueeze(0);
  const auto limits = (at::arange(queries, opapi::options(at::kLong)) * step + limit).unsqueeze(1);
  scores = scores.masked_fill(place >= limits, -kInfinity);
  const int64_t most = std::min(count, keys);
  const auto best = std::get<1>(at::topk(scores, most, -1, true, true));
  const auto rank = at::arange(most, opapi::options(at::kLong)).unsqueeze(0);
  const auto found = best.masked_fill(rank >= limits, -1);
  return at::constant_pad_nd(found, {0, count - most}, -1);
}

}  // namespace

void run(const Indexer& call) {
  call.indices.fill_(-1);
  for (const auto& request : RequestsOf(call.batch, call.query, call.key)) {
    if (request.num_keys == 0) continue;
    const auto key = f32(KeysOf(call.batch, call.key, request)).contiguous();
    const auto weights = PartOf(call.batch, call.weights, request);
    const auto indices = PartOf(call.batch, call.indices, request).select(1, 0);
    const int64_t first = FirstLimit(call.batch, request), step = call.batch.sparse_mode == 0 ? 0 : 1;
    for (int64_t begin = 0; begin < request.query.size(0); begin += kQueriesAtOnce) {
      const auto end = std::min(begin + kQueriesAtOnce, request.query.size(0));
      indices.slice(0, begin, end)
          .copy_(Chosen(f32(request.query.slice(0, begin, end)), key, f32(weights.slice(0, begin, end)),
                        first + step * begin, step, call.count));
    }
  }
}

}  // namespace emu::sparse
