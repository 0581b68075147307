// SPDX-License-Identifier: Apache-2.0
// Rows that go from every rank to every rank, each with a label.
#pragma once

#include <vector>

#include "hccl/call.h"
#include "mc2/mc2.h"

namespace emu::mc2 {

struct Label {
  int32_t rank;    // where it comes from
  int32_t token;   // there
  int32_t choice;  // which of its K
  int32_t expert;  // of the receiving rank
  float scale;
};

// What the ranks tell each other about the call.
struct Terms {
  hccl::Operation operation;
  int64_t hidden, top_k, quant_mode;
  int64_t tokens;  // of this rank
  bool masked;     // it has choices that do not take part
};

struct Rows {
  std::vector<Label> labels;
  Tensor values;  // a row for each label
};

// Sends row i to rank to[i], and returns what came: by rank, and in the order in which each sent. Fails the
// communicator when the ranks' calls do not fit together.
Rows Exchange(const Layout& layout, const Terms& terms, const Rows& rows, const Ints& to);

// Which choices take part, [T, K]. Throws for a mask of tokens whose true do not come first.
Tensor ActiveChoices(const Tensor& active, const Tensor& experts);

// The origins of `count` rows, [count, 4] of int32.
Tensor OriginsOf(const Tensor& origins, int64_t count);

}  // namespace emu::mc2
