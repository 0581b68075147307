// SPDX-License-Identifier: Apache-2.0
// Order through other ranks. With each message travels what is ordered before it, also what its sender knows from
// others, so that a rank learns which of its own tasks a peer had waited for. It learns so when the receiving task
// has run: a pair that may be ordered by it is judged when its second task is about to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "races/checker.h"
#include "races/clock.h"
#include "races/verdict.h"

namespace emu::races {

// The task of some process that sent a message; plain data, for shared memory.
struct Mark {
  uint64_t process;
  uint64_t stream;
  uint64_t index;
};
constexpr size_t kMostMarks = 96;  // what does not fit is not known, so that a race is reported rather than missed
struct Marks {
  uint64_t count;
  Mark marks[kMostMarks];
};

// Under the issue lock: the task `index` of the stream, ordered after `clock`, exchanges messages while `run`
// runs. `alone`: it does nothing else, so that who has its message in whole knows it to be over.
std::function<void()> Exchanging(StreamId stream, uint64_t index, Clock clock, bool alone,
                                 std::function<void()> run);

// On a stream's thread, in such a task. What travels with a message of its; `whole`: the message is all it sends.
void Depart(bool whole, Marks* marks);
// What came with a message: known to all that is ordered after the task.
void Arrive(const Marks& marks);

// Under the issue lock: whether a peer may order something before what has `clock`.
bool MayKnowMore(const Clock& clock);
// Keeps the conflict until its second task, ordered after `clock`, is about to run.
void Defer(Conflict conflict, const OperationPtr& second, const Clock& clock);
// The task is about to run.
void Begin(StreamId stream, uint64_t index);

}  // namespace emu::races
