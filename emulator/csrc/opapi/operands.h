// SPDX-License-Identifier: Apache-2.0
// The memory that an operator touches by its operands.
#pragma once

#include <vector>

#include "memory/access.h"
#include "memory/choice.h"
#include "opapi/operator.h"

namespace emu::opapi {

struct Touched {
  Accesses accesses;
  std::vector<Range> torn;  // bytes of two operands, at least one of them written, that are not the same view
  Choices choices;          // of operands that are touched by indices
};

// Throws Error for an operand that is not live device memory.
Touched TouchedBy(const Operator& op, const Arguments& arguments);

}  // namespace emu::opapi
