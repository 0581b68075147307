// SPDX-License-Identifier: Apache-2.0
// The lightning indexer, which chooses for each query token the keys that matter most, and attention to those.
// Arguments, meaning and limits: op-plugin's calls and its documentation of npu_lightning_indexer and
// npu_sparse_flash_attention (BSD-3).
// B requests, T tokens, N query heads, D head size, K chosen places. There is one key head.
#pragma once

#include <string>
#include <vector>

#include "opapi/operator.h"

namespace emu::sparse {

using opapi::Tensor;

// Where each request's tokens lie in packed, padded and paged operands. Lengths are in device memory: running
// totals of packed tokens, else one length a request; undefined: all of a padded operand.
struct Batch {
  std::string query_layout, key_layout;  // "BSND", "TND"; for keys also "PA_BSND"
  Tensor query_lengths, key_lengths;     // [B] int32
  Tensor block_table;                    // [B, blocks] int32, of paged keys
  int64_t sparse_mode;                   // 0: a query sees all keys; 3: those before it, counted from the end
  int64_t tokens_before, tokens_after;
};

// The blocks of paged keys, in `by`; keys are given as the operator's operands, the first tells their number.
void choose(const Batch& batch, const Tensor& query, const std::vector<Tensor>& keys, opapi::Choosing& by);

struct Indexer {
  Batch batch;
  Tensor query, key, weights;  // [.., N, D], [.., 1, D], [.., N]
  int64_t count;               // K
  bool with_values;
  Tensor indices;  // [.., 1, K] int32: the best first, -1 behind the last; -1 where there is no query
};
void check(const Indexer& call);  // throws std::runtime_error
void run(const Indexer& call);

struct Attention {
  Batch batch;
  Tensor query, key, value;     // [.., N, D], [.., 1, D]; key and value are the same memory
  Tensor indices;               // [.., 1, K] int32: blocks of keys, -1 behind the last
  Tensor query_rope, key_rope;  // [.., N, rope], [.., 1, rope]
  double scale;
  int64_t sparse_block_size;  // keys that one index stands for
  int64_t mode;
  bool with_sums;
  Tensor out;  // as query; zeros where there is no query or no key
};
void check(const Attention& call);
void run(const Attention& call);

// One request.
struct Request {
  Tensor query;        // [S, N, D], a view
  int64_t index;       // which
  int64_t begin, end;  // its tokens among those of all requests (TND), or of its row (BSND)
  int64_t num_keys;
};
// The requests that have query tokens. Throws where lengths do not fit the operands: a failure of the device.
std::vector<Request> RequestsOf(const Batch& batch, const Tensor& query, const Tensor& key);
// The request's part of an operand that is laid out as its queries.
Tensor PartOf(const Batch& batch, const Tensor& operand, const Request& request);
// The request's keys [num_keys, D], gathered from their blocks where they are paged.
Tensor KeysOf(const Batch& batch, const Tensor& key, const Request& request);
// How many keys the request's first query may see; each query after it sees one more in mode 3.
int64_t FirstLimit(const Batch& batch, const Request& request);

}  // namespace emu::sparse
