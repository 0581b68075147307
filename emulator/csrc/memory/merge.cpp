// SPDX-License-Identifier: Apache-2.0
#include "memory/merge.h"

#include <algorithm>

#include "memory/rows.h"

namespace emu {
namespace {

std::vector<Range> Union(const Accesses& accesses, bool write) {
  std::vector<Range> ranges;
  for (const Access& access : accesses) {
    if (access.write == write && !access.rows && !access.choice && !access.range.Empty())
      ranges.push_back(access.range);
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> merged;
  for (const Range& range : ranges) {
    if (!merged.empty() && range.begin < merged.back().end) {
      merged.back().end = std::max(merged.back().end, range.end);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

bool Inside(const Range& range, const std::vector<Range>& sorted) {
  auto after = std::upper_bound(sorted.begin(), sorted.end(), range.begin,
                                [](uintptr_t address, const Range& other) { return address < other.begin; });
  return after != sorted.begin() && range.end <= std::prev(after)->end;
}

}  // namespace

Accesses Merge(Accesses accesses) {
  const std::vector<Range> writes = Union(accesses, true);
  const std::vector<Range> reads = Union(accesses, false);
  Accesses merged;
  for (const Range& range : writes) merged.push_back({range, true, nullptr});
  for (const Range& range : reads) {
    if (!Inside(range, writes)) merged.push_back({range, false, nullptr});
  }
  for (Access& access : accesses) {
    if (!access.rows && !access.choice) continue;
    const bool known = std::any_of(merged.rbegin(), merged.rend(), [&](const Access& other) {
      return other.write == access.write && SameBytes(other, access);
    });
    if (!known) merged.push_back(std::move(access));
  }
  return merged;
}

}  // namespace emu
