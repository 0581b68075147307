// SPDX-License-Identifier: Apache-2.0
#include "memory/rows.h"

#include <algorithm>
#include <utility>

namespace emu {
namespace {

int64_t Down(int64_t value, int64_t step) { return value >= 0 ? value / step : -((-value + step - 1) / step); }
int64_t Up(int64_t value, int64_t step) { return -Down(-value, step); }

// A set under way: its dimensions from `dim` on, from `begin` on.
struct Part {
  int64_t begin;
  const Rows* rows;
  size_t dim = 0;

  int64_t span() const { return rows->span[dim]; }
  int64_t end() const { return begin + span(); }
  bool is_row() const { return dim == rows->dims.size(); }
  const Dim& outer() const { return rows->dims[dim]; }
  int64_t inner() const { return rows->span[dim + 1]; }
  Part At(int64_t index) const { return {begin + index * outer().step, rows, dim + 1}; }
};

bool Cross(const Part& a, const Part& b, int64_t* first, int64_t* last);

// The indices of a's outermost dimension whose parts reach into [begin, end).
std::pair<int64_t, int64_t> Reaching(const Part& a, int64_t begin, int64_t end) {
  const int64_t step = a.outer().step;
  return {std::max<int64_t>(0, Up(begin - a.inner() + 1 - a.begin, step)),
          std::min(a.outer().size - 1, Down(end - 1 - a.begin, step))};
}

// Of a and every part of b. A part's first byte belongs to it, so a row meets the first that begins inside of it.
bool CrossEach(const Part& a, const Part& b, int64_t* first, int64_t* last) {
  const auto [from, to] = Reaching(b, a.begin, a.end());
  for (int64_t i = from; i <= to; ++i) {
    if (Cross(a, b.At(i), first, last)) return true;
  }
  return false;
}

// With equal steps only the distance of the two indices matters.
bool CrossAlike(const Part& a, const Part& b, int64_t* first, int64_t* last) {
  const int64_t step = a.outer().step;
  const int64_t from = std::max(1 - b.outer().size, Up(b.begin - a.inner() + 1 - a.begin, step));
  const int64_t to = std::min(a.outer().size - 1, Down(b.begin + b.inner() - 1 - a.begin, step));
  for (int64_t distance = from; distance <= to; ++distance) {
    if (!Cross(a.At(distance), b.At(0), first, last)) continue;
    const int64_t moved = std::max<int64_t>(0, -distance) * step;
    *first += moved;
    *last += moved;
    return true;
  }
  return false;
}

bool Cross(const Part& a, const Part& b, int64_t* first, int64_t* last) {
  if (a.begin >= b.end() || b.begin >= a.end()) return false;
  if (a.is_row() && b.is_row()) {
    *first = std::max(a.begin, b.begin);
    *last = std::min(a.end(), b.end());
    return true;
  }
  if (a.is_row()) return CrossEach(a, b, first, last);
  if (b.is_row()) return CrossEach(b, a, first, last);
  if (a.outer().step == b.outer().step) return CrossAlike(a, b, first, last);
  return a.outer().step > b.outer().step ? CrossEach(b, a, first, last) : CrossEach(a, b, first, last);
}

}  // namespace

Rows::Rows(int64_t row_bytes, std::vector<Dim> steps)
    : bytes(row_bytes), dims(std::move(steps)), span(dims.size() + 1, row_bytes), count(1) {
  for (size_t k = dims.size(); k-- > 0;) {
    span[k] = span[k + 1] + (dims[k].size - 1) * dims[k].step;
    count *= dims[k].size;
  }
}

bool Meet(const Access& a, const Access& b, Range* shared) {
  if (a.range.Empty() || b.range.Empty()) return false;
  const auto whole = [](const Access& access) {
    return Rows(access.rows ? 0 : static_cast<int64_t>(access.range.end - access.range.begin), {});
  };
  const Rows whole_a = whole(a);
  const Rows whole_b = whole(b);
  const auto begin_a = static_cast<int64_t>(a.range.begin);
  const auto begin_b = static_cast<int64_t>(b.range.begin);
  int64_t first = 0;
  int64_t last = 0;
  if (!Cross({begin_a, a.rows ? a.rows.get() : &whole_a}, {begin_b, b.rows ? b.rows.get() : &whole_b}, &first,
             &last)) {
    return false;
  }
  *shared = {static_cast<uintptr_t>(first), static_cast<uintptr_t>(last)};
  return true;
}

bool SameBytes(const Access& a, const Access& b) {
  if (a.choice || b.choice) return false;  // nobody knows
  if (a.range.begin != b.range.begin || a.range.end != b.range.end || !a.rows != !b.rows) return false;
  return !a.rows || a.rows == b.rows || *a.rows == *b.rows;
}

}  // namespace emu
