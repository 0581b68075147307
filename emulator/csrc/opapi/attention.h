// SPDX-License-Identifier: Apache-2.0
// Attention over padded, packed and paged keys: what the FusedInferAttentionScore operators compute.
#pragma once

#include <optional>
#include <string>

#include "opapi/operator.h"

namespace emu::opapi {

struct Attention {
  Tensor query, key, value;     // value: as key, its head size may differ
  Tensor query_rope, key_rope;  // more head dimensions of query and key (MLA); undefined: none
  Tensor mask;                  // true: masked
  Tensor bias;                  // added to the scaled scores; undefined: none
  Tensor block_table;           // [B, blocks]; defined: key and value are paged
  Tensor sink;                  // [N] a score without a value; undefined: none
  std::optional<Ints> query_lengths, key_lengths;
  int64_t num_heads = 0;
  int64_t num_key_heads = 0;  // 0: as many as query heads
  double scale = 1;
  int64_t tokens_before = 0, tokens_after = 0;  // the band of sparse mode 4
  std::string layout;                           // of query and output, "TND" or "BNSD_NBSD"
  int64_t sparse_mode = 0;
  int64_t block_size = 0;
  bool with_lse = false;
};

// What of the call says which blocks of a paged cache it reads.
struct PagedKeys {
  Tensor query, key, value, key_rope;
  Tensor block_table;  // undefined: the keys are not paged
  std::optional<Ints> query_lengths, key_lengths;
  std::string layout;
  int64_t block_size = 0;
};
void choose_blocks(const PagedKeys& call, Choosing& by);

// Writes `out`, zeros where there is no query token, and `lse` [.., N, .., 1] when asked for.
void attention(const Attention& call, const Tensor& out, const Tensor& lse);

// What a backward pass needs of each row of scores, [.., N, S, 8] or packed [T, N, 8], eight times the same.
struct RowStatistics {
  Tensor largest, sum;  // of the exponentials less the largest
};
// Attention as FlashAttentionScore computes it: lengths of keys are running totals where those of queries are, and
// the bias is scaled.
void attention(const Attention& call, const Tensor& out, const Tensor& lse, const RowStatistics& rows);
void training_attention(Attention call, double keep_probability, const Tensor& out, const RowStatistics& rows);

// out = sum of parts, each weighted with exp(its lse - the lse of all).
void attention_update(const Tensors& lse, const Tensors& parts, const Tensor& out, const Tensor& lse_out);

}  // namespace emu::opapi
