// SPDX-License-Identifier: Apache-2.0
// What an operation touches: ranges of device or pinned host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace emu {

// Bytes [begin, end).
struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool Empty() const { return begin >= end; }
};

inline Range RangeOf(const void* pointer, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  return {begin, begin + bytes};
}

// The piece that holds `address`, or end(): `pieces` by first byte, each with its `end`.
template <typename Pieces>
auto PieceAt(Pieces& pieces, uintptr_t address) {
  auto after = pieces.upper_bound(address);
  if (after == pieces.begin()) return pieces.end();
  --after;
  return address < after->second.end ? after : pieces.end();
}

struct Rows;    // memory/rows.h: the regular part of a range
struct Choice;  // memory/choice.h: the part of a range that indices name

struct Access {
  Range range;
  bool write = false;                          // an operand that is read and written is two accesses, or one write
  std::shared_ptr<const Rows> rows = nullptr;  // what of the range is touched; null: all of it
  std::shared_ptr<Choice> choice = nullptr;    // what of that the operator's indices name; null: all of it
};

using Accesses = std::vector<Access>;

}  // namespace emu
