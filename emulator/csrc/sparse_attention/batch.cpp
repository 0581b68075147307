// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

#include "opapi/bodies.h"
#include "opapi/choosing.h"
#include "sparse_attention/sparse_attention.h"

namespace emu::sparse {
namespace {

using opapi::Ints;

// Lengths lie in device memory, which is the host's here.
Ints Lengths(const Tensor& lengths) {
  const auto wide = opapi::i64(lengths).contiguous();
  return {wide.data_ptr<int64_t>(), wide.data_ptr<int64_t>() + wide.numel()};
}

int64_t NumKeys(const Batch& batch, const Ints& lengths, const Tensor& key, int64_t request) {
  if (lengths.empty()) return key.size(1);
  if (batch.key_layout != "TND") return lengths[request];
  return lengths[request] - (request == 0 ? 0 : lengths[request - 1]);
}

int64_t MostKeys(const Batch& batch, const Tensor& key) {
  if (batch.key_layout == "PA_BSND") return batch.block_table.size(1) * key.size(1);
  return batch.key_layout == "TND" ? key.size(0) : key.size(1);
}

}  // namespace

std::vector<Request> RequestsOf(const Batch& batch, const Tensor& query, const Tensor& key) {
  const auto query_lengths = batch.query_lengths.defined() ? Lengths(batch.query_lengths) : Ints{};
  const auto key_lengths = batch.key_lengths.defined() ? Lengths(batch.key_lengths) : Ints{};
  const bool packed = batch.query_layout == "TND";
  const auto count = packed ? static_cast<int64_t>(query_lengths.size()) : query.size(0);
  std::vector<Request> requests;
  for (int64_t i = 0; i < count; ++i) {
    Request request{{}, i, 0, 0, NumKeys(batch, key_lengths, key, i)};
    request.begin = packed && i > 0 ? query_lengths[i - 1] : 0;
    request.end = query_lengths.empty() ? query.size(1) : query_lengths[i];
    const int64_t most = query.size(packed ? 0 : 1);
    if (request.begin > request.end || request.end > most) {
      throw std::runtime_error(
          c10::str("request ", i, " has query tokens ", request.begin, " to ", request.end, " of ", most));
    }
    if (request.num_keys < 0 || request.num_keys > MostKeys(batch, key)) {
      throw std::runtime_error(
          c10::str("request ", i, " has ", request.num_keys, " keys; there is room for ", MostKeys(batch, key)));
    }
    if (request.begin == request.end) continue;
    request.query = PartOf(batch, query, request);
    requests.push_back(request);
  }
  return requests;
}

Tensor PartOf(const Batch& batch, const Tensor& operand, const Request& request) {
  const auto row = batch.query_layout == "TND" ? operand : operand.select(0, request.index);
  return row.slice(0, request.begin, request.end);
}

namespace {

// Of a request of paged keys, [n].
Tensor BlocksOf(const Batch& batch, const Tensor& key, const Request& request) {
  const auto num_blocks = (request.num_keys + key.size(1) - 1) / key.size(1);
  return opapi::i64(batch.block_table.select(0, request.index).slice(0, 0, num_blocks));
}

}  // namespace

void choose(const Batch& batch, const Tensor& query, const std::vector<Tensor>& keys, opapi::Choosing& by) {
  if (batch.key_layout != "PA_BSND") return;
  const auto blocks = [&] {
    std::vector<Tensor> chosen{at::empty({0}, opapi::options(at::kLong))};
    for (const auto& request : RequestsOf(batch, query, keys[0])) {
      chosen.push_back(BlocksOf(batch, keys[0], request));
    }
    return at::cat(chosen);
  };
  for (const auto& key : keys) by.blocks(key, {batch.block_table, batch.query_lengths, batch.key_lengths}, blocks);
}

Tensor KeysOf(const Batch& batch, const Tensor& key, const Request& request) {
  if (batch.key_layout == "BSND") return key.select(0, request.index).select(1, 0).slice(0, 0, request.num_keys);
  if (batch.key_layout == "TND") {
    const auto end = batch.key_lengths.select(0, request.index).item().toLong();
    return key.select(1, 0).slice(0, end - request.num_keys, end);
  }
  const auto blocks = BlocksOf(batch, key, request);
  if (blocks.numel() > 0 && (blocks.min().item().toLong() < 0 || blocks.max().item().toLong() >= key.size(0))) {
    throw std::runtime_error(
        c10::str("the block table of request ", request.index, " names none of the ", key.size(0), " blocks"));
  }
  return key.select(2, 0).index_select(0, blocks).flatten(0, 1).slice(0, 0, request.num_keys);
}

int64_t FirstLimit(const Batch& batch, const Request& request) {
  if (batch.sparse_mode == 0) return request.num_keys;
  return request.num_keys - (request.end - request.begin) + 1;
}

}  // namespace emu::sparse
