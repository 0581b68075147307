// SPDX-License-Identifier: Apache-2.0
// The gated delta rule: each value head carries a matrix from token to token, which fades, forgets what it holds
// for the token's key, and learns its value.
// Arguments, meaning and limits: op-plugin's calls and its documentation of npu_recurrent_gated_delta_rule and
// npu_chunk_gated_delta_rule (BSD-3).
// T tokens of B sequences, packed; Nk key heads, Nv value heads; head sizes Dk and Dv.
#pragma once

#include "opapi/operator.h"

namespace emu::gated_delta {

using opapi::Tensor;

// What both operators take.
struct Tokens {
  Tensor query, key;  // [T, Nk, Dk]
  Tensor value;       // [T, Nv, Dv]
  Tensor beta;        // [T, Nv]: how much of the value is learned
  Tensor g;           // [T, Nv]: the logarithm of what the state keeps; undefined: all
  Tensor lengths;     // [B] int32
  double scale;       // of the queries
  Tensor out;         // [T, Nv, Dv]; rows behind the last sequence are not written
};

// Few tokens a sequence, whose states are kept one by one: drafts that are refused leave the state before them.
struct Recurrent {
  Tokens tokens;
  Tensor state;     // [S, Nv, Dv, Dk]
  Tensor indices;   // [T] int32: where the state behind each token goes
  Tensor accepted;  // [B] int32: which of its states a sequence goes on from, from 1; undefined: the first
};
void check(const Recurrent& call);  // throws std::runtime_error
void run(const Recurrent& call);
Tensor states_of(const Recurrent& call);  // which it reads or writes, [n]

// Many tokens a sequence.
struct Chunk {
  Tokens tokens;
  Tensor initial, final_state;  // [B, Nv, Dv, Dk]
};
void check(const Chunk& call);
void run(const Chunk& call);

}  // namespace emu::gated_delta
