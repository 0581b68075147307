// SPDX-License-Identifier: Apache-2.0
#include "races/shadow.h"

#include <algorithm>
#include <iterator>

#include "memory/rows.h"

namespace emu::races {
namespace {

void AddUnlessChosen(Conflicts* conflicts, const OperationPtr& first, const Access& first_access,
                     const Access& second_access, Range shared) {
  if (second_access.choice) return AddSuspicion(conflicts, first, first_access, second_access);
  AddConflict(conflicts, first, first_access.write, second_access.write, shared);
}

}  // namespace

void Shadow::Touch(const Access& access, const OperationPtr& operation, const Clock& clock, const Clock& host,
                   Conflicts* conflicts) {
  if (access.range.Empty()) return;
  if (!strided_.empty()) CompareWithStrided(access, operation, clock, conflicts);
  if (!chosen_.empty()) chosen_.Compare(access, clock, conflicts);
  if (access.choice) {
    CompareWithIntervals(access, clock, conflicts);
    chosen_.Add(access, operation, host);
  } else if (access.rows) {
    CompareWithIntervals(access, clock, conflicts);
    strided_.emplace(access.range.begin, Strided{access, operation});
    longest_ = std::max(longest_, access.range.end - access.range.begin);
  } else {
    TouchIntervals(access, operation, clock, host, conflicts);
  }
  if (num_intervals() > sweep_at_) Sweep(host);
}

void Shadow::CompareWithIntervals(const Access& access, const Clock& clock, Conflicts* conflicts) const {
  auto at = intervals_.upper_bound(access.range.begin);
  if (at != intervals_.begin()) --at;
  Range shared;
  for (; at != intervals_.end() && at->first < access.range.end; ++at) {
    const Interval& interval = at->second;
    const Range bytes{at->first, interval.end};
    const Access whole{bytes};
    if (interval.write && !Covers(clock, *interval.write) && Meet(access, whole, &shared)) {
      AddUnlessChosen(conflicts, interval.write, {bytes, true}, access, shared);
    }
    if (!access.write) continue;
    for (const OperationPtr& read : interval.reads) {
      if (Covers(clock, *read) || !Meet(access, whole, &shared)) continue;
      AddUnlessChosen(conflicts, read, {bytes, false}, access, shared);
    }
  }
}

void Shadow::CompareWithStrided(const Access& access, const OperationPtr& operation, const Clock& clock,
                                Conflicts* conflicts) {
  const Range range = access.range;
  const uintptr_t first = range.begin > longest_ ? range.begin - longest_ : 0;
  Range shared;
  for (auto at = strided_.lower_bound(first); at != strided_.end() && at->first < range.end;) {
    const Access& earlier = at->second.access;
    const OperationPtr& other = at->second.operation;
    const bool ordered = Covers(clock, *other);
    if (!ordered && (earlier.write || access.write) && Meet(earlier, access, &shared)) {
      AddUnlessChosen(conflicts, other, earlier, access, shared);
    }
    const bool inside =
        !access.rows && !access.choice && range.begin <= earlier.range.begin && earlier.range.end <= range.end;
    const bool written = access.write && (inside || SameBytes(earlier, access));
    const bool read_again = !access.write && !earlier.write && other->stream_id == operation->stream_id &&
                            other != operation && SameBytes(earlier, access);
    at = written || read_again ? strided_.erase(at) : std::next(at);
  }
}

void Shadow::TouchIntervals(const Access& access, const OperationPtr& operation, const Clock& clock,
                            const Clock& host, Conflicts* conflicts) {
  const Range range = access.range;
  SplitAt(range.begin);
  SplitAt(range.end);
  const auto first = intervals_.lower_bound(range.begin);
  auto last = first;
  // clock holds the operation's own index, so its stream's earlier accesses are always covered
  for (; last != intervals_.end() && last->first < range.end; ++last) {
    const Interval& interval = last->second;
    const Range bytes{last->first, interval.end};
    if (interval.write && !Covers(clock, *interval.write)) {
      AddConflict(conflicts, interval.write, true, access.write, bytes);
    }
    if (!access.write) continue;
    for (const OperationPtr& read : interval.reads) {
      if (!Covers(clock, *read)) AddConflict(conflicts, read, false, true, bytes);
    }
  }
  if (!access.write) {
    AddRead(range, operation, host);
  } else if (first != last && first->first == range.begin) {  // most writes repeat an earlier range: keep the node
    intervals_.erase(std::next(first), last);
    first->second = {range.end, operation, {}};
  } else {
    intervals_.erase(first, last);
    intervals_[range.begin] = {range.end, operation, {}};
  }
  MergeAround(range);
}

void Shadow::AddRead(Range range, const OperationPtr& operation, const Clock& host) {
  uintptr_t at = range.begin;
  auto next = intervals_.lower_bound(range.begin);
  while (at < range.end) {
    if (next == intervals_.end() || next->first > at) {  // bytes nobody has touched
      const uintptr_t end = next == intervals_.end() ? range.end : std::min(range.end, next->first);
      next = intervals_.emplace_hint(next, at, Interval{end, nullptr, {}});
    }
    Interval& interval = next->second;
    if (interval.write && Covers(host, *interval.write)) interval.write = nullptr;
    auto& reads = interval.reads;
    reads.erase(std::remove_if(reads.begin(), reads.end(),
                               [&](const OperationPtr& read) {
                                 return read->stream_id == operation->stream_id || Covers(host, *read);
                               }),
                reads.end());
    reads.push_back(operation);
    at = interval.end;
    ++next;
  }
}

void Shadow::SplitAt(uintptr_t address) {
  auto next = intervals_.upper_bound(address);
  if (next == intervals_.begin()) return;
  const auto interval = std::prev(next);
  if (interval->first == address || interval->second.end <= address) return;
  Interval tail = interval->second;
  interval->second.end = address;
  intervals_.emplace_hint(next, address, std::move(tail));
}

void Shadow::MergeAround(Range range) {
  auto at = intervals_.lower_bound(range.begin);
  if (at != intervals_.begin()) --at;
  while (at != intervals_.end() && at->first < range.end) {
    const auto next = std::next(at);
    if (next == intervals_.end()) return;
    const bool same = at->second.end == next->first && at->second.write == next->second.write &&
                      at->second.reads == next->second.reads;
    if (same) {
      at->second.end = next->second.end;
      intervals_.erase(next);
    } else {
      at = next;
    }
  }
}

template <typename Predicate>
void Shadow::DropStrided(Range range, Predicate predicate) {
  const uintptr_t first = range.begin > longest_ ? range.begin - longest_ : 0;
  for (auto at = strided_.lower_bound(first); at != strided_.end() && at->first < range.end;) {
    const bool meets = at->second.access.range.end > range.begin;
    at = meets && predicate(at->second) ? strided_.erase(at) : std::next(at);
  }
}

void Shadow::Forget(Range range) {
  if (range.Empty()) return;
  SplitAt(range.begin);
  SplitAt(range.end);
  intervals_.erase(intervals_.lower_bound(range.begin), intervals_.lower_bound(range.end));
  DropStrided(range, [](const Strided&) { return true; });
  chosen_.Forget(range);
}

void Shadow::ForgetCovered(Range range, const Clock& clock) {
  if (range.Empty()) return;
  SplitAt(range.begin);
  SplitAt(range.end);
  auto at = intervals_.lower_bound(range.begin);
  while (at != intervals_.end() && at->first < range.end) at = Drop(at, clock);
  DropStrided(range, [&](const Strided& strided) { return Covers(clock, *strided.operation); });
  chosen_.ForgetCovered(range, clock);
}

void Shadow::Sweep(const Clock& host) {
  for (auto at = intervals_.begin(); at != intervals_.end();) at = Drop(at, host);
  DropStrided({0, UINTPTR_MAX}, [&](const Strided& strided) { return Covers(host, *strided.operation); });
  chosen_.ForgetCovered({0, UINTPTR_MAX}, host);
  // twice what is left, so that sweeping stays a constant cost for each access
  sweep_at_ = std::max<size_t>(1024, 2 * num_intervals());
}

Shadow::Intervals::iterator Shadow::Drop(Intervals::iterator at, const Clock& clock) {
  Interval& interval = at->second;
  if (interval.write && Covers(clock, *interval.write)) interval.write = nullptr;
  auto& reads = interval.reads;
  const auto covered = [&](const OperationPtr& read) { return Covers(clock, *read); };
  reads.erase(std::remove_if(reads.begin(), reads.end(), covered), reads.end());
  return interval.write || !reads.empty() ? std::next(at) : intervals_.erase(at);
}

}  // namespace emu::races
