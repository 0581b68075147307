// SPDX-License-Identifier: Apache-2.0
// From two operations without an order to a race. Where it is known which bytes they touch, it is one at once.
// Where an operand is touched by indices it is a suspicion, which is decided when both operations have come to run
// and their indices can be read.
#pragma once

#include <memory>
#include <vector>

#include "memory/access.h"
#include "memory/choice.h"
#include "races/checker.h"
#include "races/history.h"

namespace emu::races {

// An earlier operation that touches bytes of the present one and is not ordered before it.
struct Conflict {
  OperationPtr first;
  bool first_writes = false;
  bool second_writes = false;
  Range range;      // bytes that both touch, or may touch
  Accesses firsts;  // of a suspicion: what of the first operation may meet `second`
  Access second;
  ExcerptPtr history;  // for the page; null without one
};
using Conflicts = std::vector<Conflict>;

// Neighbours of one pair of operations become one conflict.
void AddConflict(Conflicts* conflicts, const OperationPtr& first, bool first_writes, bool second_writes,
                 Range range);
// The same where one of the two accesses, or both, have a choice.
void AddSuspicion(Conflicts* conflicts, const OperationPtr& first, const Access& first_access,
                  const Access& second_access);

// Reports the conflict, or keeps the suspicion until it can be decided. Indices that take part in a race name
// nothing for certain: what they choose from counts as touched in whole from then on.
void Judge(Conflict conflict, const OperationPtr& second);

// The task with these choices is about to run. Decides the suspicions that waited for it.
void Tell(const Choices& choices, Chosen chosen);

}  // namespace emu::races
