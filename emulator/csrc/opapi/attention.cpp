// SPDX-License-Identifier: Apache-2.0
// Semantics from op-plugin's public API documentation of npu_fused_infer_attention_score (BSD-3 repository).
#include "opapi/attention.h"

#include <algorithm>
#include <limits>

#include "opapi/bodies.h"
#include "opapi/choosing.h"

namespace emu::opapi {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One request's tokens and heads as [N, S, D] views.
class Layout {
 public:
  Layout(std::string name, int64_t heads) : name_(std::move(name)), heads_(heads) {}

  bool packed() const { return name_ == "TND" || name_ == "NTD"; }

  // Tokens [begin, end) of request `b`; `begin` and `end` count from the tensor's first token when packed.
  Tensor Of(const Tensor& tensor, int64_t b, int64_t begin, int64_t end) const {
    if (name_ == "TND") return tensor.slice(0, begin, end).transpose(0, 1);
    if (name_ == "NTD") return tensor.slice(1, begin, end);
    if (name_ == "NSD") return tensor.slice(1, begin, end);
    if (name_ == "BNSD") return tensor.select(0, b).slice(1, begin, end);
    if (name_ == "BSND") return tensor.select(0, b).slice(0, begin, end).transpose(0, 1);
    if (name_ == "NBSD") return tensor.select(1, b).slice(1, begin, end);
    if (name_ == "SBH") {
      return tensor.select(1, b).unflatten(-1, {heads_, -1}).slice(0, begin, end).transpose(0, 1);
    }
    if (name_ == "BSH") {
      return tensor.select(0, b).unflatten(-1, {heads_, -1}).slice(0, begin, end).transpose(0, 1);
    }
    not_emulated("attention layout " + name_);
  }

  int64_t Batches(const Tensor& tensor, size_t lengths) const {
    if (packed()) return static_cast<int64_t>(lengths);
    return name_ == "NSD" ? 1 : tensor.size(name_ == "NBSD" || name_ == "SBH" ? 1 : 0);
  }

  int64_t Tokens(const Tensor& tensor) const {
    if (name_ == "TND" || name_ == "SBH") return tensor.size(0);
    return tensor.size(name_ == "BNSD" || name_ == "NBSD" ? 2 : 1);
  }

 private:
  std::string name_;
  int64_t heads_;
};

struct Span {
  int64_t begin, end;
  int64_t length() const { return std::max<int64_t>(0, end - begin); }
};

// Lengths are running totals in packed layouts, else one for each request or one for all.
Span SpanOf(const std::optional<Ints>& lengths, bool packed, int64_t b, int64_t whole) {
  if (!lengths || lengths->empty()) return {0, whole};
  if (packed) return {b == 0 ? 0 : lengths->at(b - 1), lengths->at(b)};
  return {0, lengths->size() == 1 ? lengths->front() : lengths->at(b)};
}

// Keys of one request from blocks [blocks, bs, N*D], [blocks, N, bs, D] or [blocks, N, D/16, bs, 16].
Tensor Paged(const Tensor& cache, const Tensor& blocks, int64_t heads, int64_t length) {
  const auto chosen = cache.index_select(0, blocks);
  Tensor keys;
  switch (cache.dim()) {
    case 3:
      keys = chosen.flatten(0, 1).unflatten(-1, {heads, -1}).transpose(0, 1);
      break;
    case 4:
      keys = chosen.transpose(0, 1).flatten(1, 2);
      break;
    case 5:
      keys = chosen.permute({1, 0, 3, 2, 4}).flatten(3, 4).flatten(1, 2);
      break;
    default:
      not_emulated("a paged cache of " + std::to_string(cache.dim()) + " dimensions");
  }
  return keys.slice(1, 0, length);
}

// True where a query must not see a key: [S, K] or [N, S, K]; undefined: sees all.
Tensor Hidden(const Attention& call, int64_t b, int64_t queries, int64_t keys) {
  if (call.sparse_mode == 0 || call.sparse_mode == 1) {
    if (!call.mask.defined()) return {};
    auto mask = call.mask.to(at::kBool);
    if (mask.dim() > 2) mask = mask.select(0, mask.size(0) == 1 ? 0 : b);
    if (mask.dim() > 2 && mask.size(0) == 1) mask = mask.select(0, 0);  // one for all heads
    return mask.slice(-2, 0, queries).slice(-1, 0, keys);
  }
  // Key minus query, both counted from the start (mode 2) or from the end (modes 3 and 4).
  const int64_t shift = call.sparse_mode == 2 ? 0 : keys - queries;
  const auto key = at::arange(keys, options(at::kLong)).unsqueeze(0);
  const auto query = at::arange(queries, options(at::kLong)).unsqueeze(1);
  const auto distance = key - query - shift;
  if (call.sparse_mode == 2 || call.sparse_mode == 3) return distance > 0;
  if (call.sparse_mode == 4) return (distance > call.tokens_after).logical_or(distance < -call.tokens_before);
  not_emulated("sparse mode " + std::to_string(call.sparse_mode));
}

struct Result {
  Tensor value;    // [N, S, Dv]
  Tensor lse;      // [N, S]
  Tensor largest;  // [N, S] the largest score of a row
};

// query [N, S, D], key [M, K, D], value [M, K, Dv], heads in groups of N / M.
Result Attend(const Attention& call, int64_t b, const Tensor& query, const Tensor& key, const Tensor& value) {
  const int64_t heads = query.size(0), queries = query.size(1), keys = key.size(1), groups = key.size(0);
  const auto grouped = query.reshape({groups, heads / groups * queries, query.size(2)});
  auto scores = (at::bmm(grouped, key.transpose(1, 2)) * call.scale).reshape({heads, queries, keys});
  if (call.bias.defined()) {
    const auto bias = f32(call.bias).select(0, call.bias.size(0) == 1 ? 0 : b);
    scores = scores + bias.slice(1, 0, queries).slice(2, 0, keys);
  }
  const auto hidden = Hidden(call, b, queries, keys);
  if (hidden.defined()) scores = scores.masked_fill(hidden, -kInfinity);
  if (call.sink.defined()) {
    const auto sink = f32(call.sink).reshape({heads, 1, 1}).expand({heads, queries, 1});
    scores = at::cat({scores, sink}, -1);
  }
  const auto lse = at::logsumexp(scores, Ints{-1}, true);
  // A query that sees nothing has the value 0 and the lse +inf.
  const auto blind = lse == -kInfinity;
  const auto weights = at::exp(scores - lse).masked_fill(blind, 0).slice(2, 0, keys);
  const auto result = at::bmm(weights.reshape({groups, heads / groups * queries, keys}), value);
  const auto largest = scores.size(-1) == 0 ? lse.squeeze(-1) : scores.amax(Ints{-1});  // no keys: -inf
  return {result.reshape({heads, queries, value.size(2)}), lse.masked_fill(blind, kInfinity).squeeze(-1), largest};
}

std::string Part(const std::string& layout, bool output) {
  const auto cut = layout.find('_');
  if (cut == std::string::npos) return layout;
  return output ? layout.substr(cut + 1) : layout.substr(0, cut);
}

// The blocks [n] that hold the first `length` keys of a request with these blocks.
Tensor BlocksOf(const Tensor& blocks, int64_t length, int64_t block_size) {
  return i64(blocks).slice(0, 0, (length + block_size - 1) / block_size);
}

}  // namespace

void choose_blocks(const PagedKeys& call, Choosing& by) {
  if (!call.block_table.defined()) return;
  const auto blocks = [&] {
    const Layout queries(Part(call.layout, false), 1);
    Tensors chosen{at::empty({0}, options(at::kLong))};
    const auto num_lengths = call.query_lengths ? call.query_lengths->size() : 0;
    for (int64_t b = 0; b < queries.Batches(call.query, num_lengths); ++b) {
      const auto at = SpanOf(call.query_lengths, queries.packed(), b, queries.Tokens(call.query));
      if (at.length() == 0) continue;
      const int64_t length = SpanOf(call.key_lengths, false, b, 0).end;
      chosen.push_back(BlocksOf(call.block_table.select(0, b), length, call.block_size));
    }
    return at::cat(chosen);
  };
  for (const auto& cache : {call.key, call.value, call.key_rope}) by.blocks(cache, {call.block_table}, blocks);
}

void attention(const Attention& call, const Tensor& out, const Tensor& lse) { attention(call, out, lse, {}); }

void attention(const Attention& call, const Tensor& out, const Tensor& lse, const RowStatistics& rows) {
  const int64_t key_heads = call.num_key_heads == 0 ? call.num_heads : call.num_key_heads;
  const Layout queries(Part(call.layout, false), call.num_heads);
  const Layout keys(Part(call.layout, false), key_heads);
  const Layout outputs(Part(call.layout, true), call.num_heads);
  const bool paged = call.block_table.defined();
  const auto num_lengths = call.query_lengths ? call.query_lengths->size() : 0;
  out.zero_();
  if (call.with_lse) lse.fill_(kInfinity);
  for (int64_t b = 0; b < queries.Batches(call.query, num_lengths); ++b) {
    const auto at = SpanOf(call.query_lengths, queries.packed(), b, queries.Tokens(call.query));
    if (at.length() == 0) continue;
    auto query = f32(queries.Of(call.query, b, at.begin, at.end));
    Tensor key, value, key_rope;
    if (paged) {
      const int64_t length = SpanOf(call.key_lengths, false, b, 0).end;
      const auto blocks = BlocksOf(call.block_table.select(0, b), length, call.block_size);
      key = Paged(call.key, blocks, key_heads, length);
      value = Paged(call.value, blocks, key_heads, length);
      if (call.key_rope.defined()) key_rope = Paged(call.key_rope, blocks, key_heads, length);
    } else {
      const auto from = SpanOf(call.key_lengths, keys.packed(), b, keys.Tokens(call.key));
      key = keys.Of(call.key, b, from.begin, from.end);
      value = keys.Of(call.value, b, from.begin, from.end);
      if (call.key_rope.defined()) key_rope = keys.Of(call.key_rope, b, from.begin, from.end);
    }
    key = f32(key);
    if (call.query_rope.defined()) {
      query = at::cat({query, f32(queries.Of(call.query_rope, b, at.begin, at.end))}, -1);
      key = at::cat({key, f32(key_rope)}, -1);
    }
    const auto result = Attend(call, b, query, key, f32(value));
    outputs.Of(out, b, at.begin, at.end).copy_(result.value);
    const Layout sums(queries.packed() ? "TND" : "BNSD", call.num_heads);
    if (rows.largest.defined()) {
      sums.Of(rows.largest, b, at.begin, at.end).copy_(result.largest.unsqueeze(-1));
      sums.Of(rows.sum, b, at.begin, at.end).copy_(at::exp(result.lse - result.largest).unsqueeze(-1));
    }
    if (!call.with_lse) continue;
    sums.Of(lse, b, at.begin, at.end).copy_(result.lse.unsqueeze(-1));
  }
}

void training_attention(Attention call, double keep_probability, const Tensor& out, const RowStatistics& rows) {
  if (keep_probability < 1) not_emulated("attention with dropout");
  const auto& layout = call.layout;
  const auto width = [&](const Tensor& t) { return t.size(-1); };
  const bool joined = layout == "BSH" || layout == "SBH";  // heads and their sizes in one dimension
  const int64_t heads_at = layout == "BNSD" || layout == "TND" ? 1 : 2;
  call.num_key_heads = joined ? width(call.key) * call.num_heads / width(call.query) : call.key.size(heads_at);
  if (call.bias.defined()) {
    if (call.bias.dim() != 4) not_emulated("a bias of attention in slopes");
    call.bias = f32(call.bias) * call.scale;
  }
  attention(call, out, {}, rows);
}

void attention_update(const Tensors& lse, const Tensors& parts, const Tensor& out, const Tensor& lse_out) {
  // A part that saw no key has lse +inf and no weight.
  auto all = f32(at::stack(lse));
  all = all.masked_fill(all == kInfinity, -kInfinity);
  const auto total = at::logsumexp(all, Ints{0}, true);
  const auto weights = at::exp(all - total).nan_to_num(0.0).unsqueeze(-1);
  Tensors wide;
  for (const auto& part : parts) wide.push_back(f32(part));
  put(out, (at::stack(wide) * weights).sum(0));
  if (lse_out.defined() && lse_out.numel() > 0) put(lse_out, total.squeeze(0));
}

}  // namespace emu::opapi
