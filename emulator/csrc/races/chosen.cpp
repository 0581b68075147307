// SPDX-License-Identifier: Apache-2.0
#include "races/chosen.h"

#include <algorithm>
#include <iterator>

#include "memory/rows.h"

namespace emu::races {

template <typename Predicate>
void ChosenAccesses::Drop(Entries& entries, Predicate predicate) {
  const auto end = std::remove_if(entries.begin(), entries.end(), predicate);
  size_ -= static_cast<size_t>(entries.end() - end);
  entries.erase(end, entries.end());
}

template <typename Predicate>
void ChosenAccesses::DropIn(Range range, Predicate predicate) {
  for (auto at = operands_.begin(); at != operands_.end() && at->first.first < range.end;) {
    if (at->first.second > range.begin) Drop(at->second, predicate);
    at = at->second.empty() ? operands_.erase(at) : std::next(at);
  }
}

void ChosenAccesses::Compare(const Access& access, const Clock& clock, Conflicts* conflicts) {
  const Range range = access.range;
  for (auto at = operands_.begin(); at != operands_.end() && at->first.first < range.end;) {
    Entries& entries = at->second;
    Range shared;
    if (at->first.second > range.begin) {
      for (const Entry& earlier : entries) {
        const bool ordered = (!earlier.access.write && !access.write) || Covers(clock, *earlier.operation);
        if (ordered || !Meet(earlier.access, access, &shared)) continue;
        AddSuspicion(conflicts, earlier.operation, earlier.access, access);
      }
      const bool all = access.write && !access.rows && !access.choice;
      const bool replaced = all && range.begin <= at->first.first && at->first.second <= range.end;
      if (replaced) Drop(entries, [](const Entry&) { return true; });
    }
    at = entries.empty() ? operands_.erase(at) : std::next(at);
  }
}

void ChosenAccesses::Add(const Access& access, const OperationPtr& operation, const Clock& host) {
  Entries& entries = operands_[{access.range.begin, access.range.end}];
  Drop(entries, [&](const Entry& entry) { return Covers(host, *entry.operation); });
  entries.push_back({access, operation});
  ++size_;
}

void ChosenAccesses::Forget(Range range) {
  DropIn(range, [](const Entry&) { return true; });
}

void ChosenAccesses::ForgetCovered(Range range, const Clock& clock) {
  DropIn(range, [&](const Entry& entry) { return Covers(clock, *entry.operation); });
}

}  // namespace emu::races
