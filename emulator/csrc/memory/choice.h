// SPDX-License-Identifier: Apache-2.0
// What of an operand an operator touches by its indices. It is known once the operator is about to run.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "memory/access.h"

namespace emu {

struct Choice {
  enum class State { kOpen, kKnown, kAll };

  std::vector<Range> indices;  // where the indices lie
  // Under the lock of races/verdict.cpp, which fills them in.
  State state = State::kOpen;
  Accesses pieces;  // by first byte, once known
};
using Choices = std::vector<std::shared_ptr<Choice>>;

// What each of a task's choices came to, in their order; no value: indices that name nothing of the operand, so
// that all of it counts.
using Chosen = std::vector<std::optional<Accesses>>;
using ReadIndices = std::function<Chosen()>;  // reads the indices as they are now; throws nothing

}  // namespace emu
