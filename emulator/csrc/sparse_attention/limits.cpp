// SPDX-License-Identifier: Apache-2.0
// What the operators refuse at the call: the limits documented for an A2 and an A3. Float32 is not refused, so
// that small models can be compared with a reference.
#include <limits>
#include <stdexcept>

#include "opapi/bodies.h"
#include "sparse_attention/sparse_attention.h"

namespace emu::sparse {
namespace {

constexpr int64_t kIndexerHeadSize = 128, kMostIndexerHeads = 64, kLatent = 512, kRope = 64, kMostHeads = 128;
constexpr int64_t kMostPlaces = 2048, kMostSparseBlock = 128, kMostBlock = 1024, kBlockStep = 16;
constexpr int64_t kEveryToken = std::numeric_limits<int64_t>::max();

template <typename... Parts>
void Require(bool fulfilled, const Parts&... parts) {
  if (!fulfilled) throw std::runtime_error(c10::str(parts...));
}

bool PowerOfTwo(int64_t number) { return number > 0 && (number & (number - 1)) == 0; }

void RequireLengths(const Tensor& lengths, const char* name, bool needed) {
  Require(lengths.defined() || !needed, name, " is needed in this layout");
  if (!lengths.defined()) return;
  Require(lengths.dim() == 1 && lengths.scalar_type() == at::kInt, name, " must be int32 and have one dimension");
}

// Lengths, blocks and what the two operators have in common.
void CheckBatch(const Batch& batch, const Tensor& query, const Tensor& key) {
  const bool packed = batch.query_layout == "TND", paged = batch.key_layout == "PA_BSND";
  Require(packed || batch.query_layout == "BSND", "layout_query is ", batch.query_layout, ", not BSND or TND");
  Require(paged || batch.key_layout == batch.query_layout, "layout of keys is ", batch.key_layout,
          ", not PA_BSND or that of the queries");
  Require(query.dim() == (packed ? 3 : 4), "query has ", query.dim(), " dimensions in layout ",
          batch.query_layout);
  Require(key.dim() == (batch.key_layout == "TND" ? 3 : 4), "key has ", key.dim(), " dimensions in layout ",
          batch.key_layout);
  const auto type = query.scalar_type();
  Require(type == at::kHalf || type == at::kBFloat16 || type == at::kFloat, "query is ", type);
  Require(key.scalar_type() == type, "key is ", key.scalar_type(), ", query ", type);
  Require(key.size(-2) == 1, "there are ", key.size(-2), " key heads; one is supported");
  Require(key.is_contiguous(), "key is not contiguous");
  RequireLengths(batch.query_lengths, "actual_seq_lengths_query", packed);
  RequireLengths(batch.key_lengths, "actual_seq_lengths of keys", batch.key_layout != "BSND");
  const int64_t requests = packed ? batch.query_lengths.size(0) : query.size(0);
  for (const auto& lengths : {batch.query_lengths, batch.key_lengths}) {
    Require(!lengths.defined() || lengths.size(0) == requests, "lengths of ",
            lengths.defined() ? lengths.size(0) : 0, " requests, where there are ", requests);
  }
  Require(batch.sparse_mode == 0 || batch.sparse_mode == 3, "sparse_mode ", batch.sparse_mode, " is not 0 or 3");
  Require(batch.tokens_before == kEveryToken && batch.tokens_after == kEveryToken,
          "pre_tokens and next_tokens must keep their defaults");
  if (!paged) return;
  const auto& table = batch.block_table;
  Require(table.defined() && table.dim() == 2 && table.scalar_type() == at::kInt && table.size(0) == requests,
          "block_table must be int32, [", requests, ", blocks]");
  Require(key.size(1) % kBlockStep == 0 && key.size(1) >= kBlockStep && key.size(1) <= kMostBlock, "a block has ",
          key.size(1), " keys, not a multiple of ", kBlockStep, " up to ", kMostBlock);
}

bool AllowedCount(int64_t count) {
  if (count >= 1 && count <= kMostPlaces) return true;
  return count > kMostPlaces && count <= 8192 && count % 1024 == 0;
}

}  // namespace

void check(const Indexer& call) {
  CheckBatch(call.batch, call.query, call.key);
  Require(call.query.size(-1) == kIndexerHeadSize && call.key.size(-1) == kIndexerHeadSize, "head sizes ",
          call.query.size(-1), " and ", call.key.size(-1), " are not ", kIndexerHeadSize);
  Require(call.query.size(-2) <= kMostIndexerHeads, call.query.size(-2), " heads; at most ", kMostIndexerHeads,
          " are supported");
  Require(call.weights.sizes() == call.query.sizes().slice(0, call.query.dim() - 1), "weights ",
          call.weights.sizes(), " do not fit queries ", call.query.sizes());
  Require(call.weights.scalar_type() == at::kFloat || call.weights.scalar_type() == call.query.scalar_type(),
          "weights are ", call.weights.scalar_type(), ", query ", call.query.scalar_type());
  Require(AllowedCount(call.count), "sparse_count ", call.count, " is not supported");
  Require(!call.with_values, "return_value is for training, which is not emulated");
}

void check(const Attention& call) {
  Require(call.value.defined() && call.query_rope.defined() && call.key_rope.defined(),
          "value, query_rope and key_rope are needed in attention_mode 2");
  CheckBatch(call.batch, call.query, call.key);
  const int64_t heads = call.query.size(-2);
  Require(call.mode == 2, "attention_mode ", call.mode, " is not 2");
  Require(call.query.size(-1) == kLatent && call.key.size(-1) == kLatent, "head sizes ", call.query.size(-1),
          " and ", call.key.size(-1), " are not ", kLatent);
  Require(call.query_rope.size(-1) == kRope && call.key_rope.size(-1) == kRope, "rope sizes ",
          call.query_rope.size(-1), " and ", call.key_rope.size(-1), " are not ", kRope);
  Require(PowerOfTwo(heads) && heads <= kMostHeads, heads, " heads: not a power of two up to ", kMostHeads);
  Require(call.value.sizes() == call.key.sizes() && call.value.data_ptr() == call.key.data_ptr(),
          "key and value must be the same tensor");
  Require(
      call.query_rope.sizes().slice(0, call.query.dim() - 1) == call.query.sizes().slice(0, call.query.dim() - 1),
      "query_rope ", call.query_rope.sizes(), " does not fit query ", call.query.sizes());
  Require(call.key_rope.sizes().slice(0, call.key.dim() - 1) == call.key.sizes().slice(0, call.key.dim() - 1),
          "key_rope ", call.key_rope.sizes(), " does not fit key ", call.key.sizes());
  Require(call.key_rope.is_contiguous(), "key_rope is not contiguous");
  Require(call.query_rope.scalar_type() == call.query.scalar_type() &&
              call.key_rope.scalar_type() == call.query.scalar_type(),
          "query, query_rope and key_rope must have one dtype");
  const auto& indices = call.indices;
  Require(indices.scalar_type() == at::kInt && indices.dim() == call.query.dim() && indices.size(-2) == 1 &&
              indices.size(-1) > 0 &&
              indices.sizes().slice(0, indices.dim() - 2) == call.query.sizes().slice(0, call.query.dim() - 2),
          "sparse_indices must be int32, a row for each query token, not ", indices.sizes());
  Require(PowerOfTwo(call.sparse_block_size) && call.sparse_block_size <= kMostSparseBlock, "sparse_block_size ",
          call.sparse_block_size, " is not a power of two up to ", kMostSparseBlock);
  Require(call.batch.key_layout != "PA_BSND" || call.key.size(1) % call.sparse_block_size == 0, "blocks of ",
          call.key.size(1), " keys are not divisible by sparse_block_size ", call.sparse_block_size);
  Require(!call.with_sums, "return_softmax_lse is for training, which is not emulated");
}

}  // namespace emu::sparse
