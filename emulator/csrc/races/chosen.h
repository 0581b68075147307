// SPDX-License-Identifier: Apache-2.0
// Accesses by indices, each in whole beside the intervals of races/shadow.h: nobody knows yet which bytes of their
// operand they touch.
#pragma once

#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include "memory/access.h"
#include "races/checker.h"
#include "races/clock.h"
#include "races/verdict.h"

namespace emu::races {

class ChosenAccesses {
 public:
  // Suspicions against the earlier ones that `clock` does not order before. One who writes all of an operand later
  // takes the place of what was chosen from it.
  void Compare(const Access& access, const Clock& clock, Conflicts* conflicts);
  // What `host` covers is forgotten.
  void Add(const Access& access, const OperationPtr& operation, const Clock& host);

  void Forget(Range range);
  void ForgetCovered(Range range, const Clock& clock);
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  struct Entry {
    Access access;
    OperationPtr operation;
  };
  using Entries = std::vector<Entry>;
  template <typename Predicate>
  void Drop(Entries& entries, Predicate predicate);
  template <typename Predicate>
  void DropIn(Range range, Predicate predicate);

  std::map<std::pair<uintptr_t, uintptr_t>, Entries> operands_;  // by first byte and end
  size_t size_ = 0;
};

}  // namespace emu::races
