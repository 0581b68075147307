// SPDX-License-Identifier: Apache-2.0
// Regular sets of bytes, as strided views of tensors have them, and whether two of them meet.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/access.h"

namespace emu {

struct Dim {
  int64_t size = 0;
  int64_t step = 0;  // bytes
  bool operator==(const Dim& other) const { return size == other.size && step == other.step; }
};

// Rows of contiguous bytes: one begins at the first byte plus any sum of multiples of the steps.
struct Rows {
  Rows(int64_t row_bytes, std::vector<Dim> steps);
  bool operator==(const Rows& other) const { return bytes == other.bytes && dims == other.dims; }

  int64_t bytes;              // of each row
  std::vector<Dim> dims;      // largest step first
  std::vector<int64_t> span;  // span[k]: bytes from the first to the last, of the dimensions from k on
  int64_t count;              // of rows
};

// Whether the two have a byte in common, whatever indices choose; `shared` is then a range of such bytes.
bool Meet(const Access& a, const Access& b, Range* shared);
bool SameBytes(const Access& a, const Access& b);

}  // namespace emu
