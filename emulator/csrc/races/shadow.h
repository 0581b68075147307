// SPDX-License-Identifier: Apache-2.0
// Who last wrote and read each byte: intervals of addresses, split where accesses end and merged where they agree.
// Accesses of many rows are kept beside them, each in whole: a view of a cache has millions of rows. So are
// accesses by indices.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "memory/access.h"
#include "races/checker.h"
#include "races/chosen.h"
#include "races/clock.h"
#include "races/verdict.h"

namespace emu::races {

class Shadow {
 public:
  // Looks for earlier accesses that conflict with this one and that `clock` (the operation's own) does not order
  // before it, then remembers it. What `host` covers is forgotten: every later task is ordered after it.
  void Touch(const Access& access, const OperationPtr& operation, const Clock& clock, const Clock& host,
             Conflicts* conflicts);
  void Forget(Range range);
  void ForgetCovered(Range range, const Clock& clock);
  size_t num_intervals() const { return intervals_.size() + strided_.size() + chosen_.size(); }

 private:
  // The last write, and of each stream the last read since. Nothing else can conflict first: what is ordered after
  // these is ordered after everything before them, or a race was reported then.
  struct Interval {
    uintptr_t end = 0;
    OperationPtr write;
    std::vector<OperationPtr> reads;
  };
  using Intervals = std::map<uintptr_t, Interval>;

  // An access of rows. The one who writes all of its bytes later, or reads them again on its stream, takes its
  // place.
  struct Strided {
    Access access;
    OperationPtr operation;
  };
  using StridedByBegin = std::multimap<uintptr_t, Strided>;

  void TouchIntervals(const Access& access, const OperationPtr& operation, const Clock& clock, const Clock& host,
                      Conflicts* conflicts);
  void CompareWithIntervals(const Access& access, const Clock& clock, Conflicts* conflicts) const;
  void CompareWithStrided(const Access& access, const OperationPtr& operation, const Clock& clock,
                          Conflicts* conflicts);
  template <typename Predicate>
  void DropStrided(Range range, Predicate predicate);

  void SplitAt(uintptr_t address);
  void MergeAround(Range range);
  void AddRead(Range range, const OperationPtr& operation, const Clock& host);
  void Sweep(const Clock& host);
  Intervals::iterator Drop(Intervals::iterator at, const Clock& clock);  // what the clock covers

  Intervals intervals_;  // by first byte
  StridedByBegin strided_;
  ChosenAccesses chosen_;
  uintptr_t longest_ = 0;  // of the strided ranges, so far
  size_t sweep_at_ = 1024;
};

}  // namespace emu::races
