// SPDX-License-Identifier: Apache-2.0
// The bytes that one instruction touches, from its code and the registers it was about to run with.
#pragma once

#include <ucontext.h>

#include <cstdint>

#include "memory/access.h"

namespace emu::machine {

struct Operand {
  Range range;
  uint8_t element = 0;  // bytes, when a mask says which elements of the range are touched
  uint64_t mask = 0;

  bool Touches(Range bytes) const;
};

// The operand of the instruction at the context's program counter that holds `fault`; just that byte when the
// instruction is unknown, and on other processors than x86-64.
Operand OperandAt(const ucontext_t& context, uintptr_t fault);

}  // namespace emu::machine
