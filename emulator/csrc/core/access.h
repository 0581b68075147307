// SPDX-License-Identifier: Apache-2.0
// What an operation touches: ranges of device or pinned host memory.
#pragma once

#include <cstdint>
#include <vector>

namespace emu {

// Bytes [begin, end).
struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool Empty() const { return begin >= end; }
};

struct Access {
  Range range;
  bool write = false;  // an operand that is read and written is two accesses, or one write
};

using Accesses = std::vector<Access>;

}  // namespace emu
