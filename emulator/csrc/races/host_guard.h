// SPDX-License-Identifier: Apache-2.0
// Catches the host touching pinned memory too early. While a copy into pinned memory is not known to be complete,
// the program's view of its pages is closed; while a copy out of it is not, they are read-only. A touch ends in
// the fault handler, which reports it when the instruction's operand has a byte of the copy's range (machine/) and
// else lets the instruction pass by one step.
#pragma once

#include "memory/access.h"
#include "races/checker.h"

namespace emu::races {

// Under the issue lock. `task_writes`: the task writes the range, so that not even reading it is safe.
void GuardPinned(Range range, bool task_writes, OperationPtr operation);
// The host has seen more work complete.
void ReleaseGuards(const Clock& host);
// The same for the memory of one block, which its allocator hands out again.
void ReleaseGuards(Range range, const Clock& clock);
// The memory goes back: nothing of it is guarded any more.
void DropGuards(Range range);

// The kernel touches the range for the program, past the closed pages: reports it when a copy is pending there.
void HostTouches(Range range, bool writes);

// While it lives, the calling thread (a host function on a stream's thread) may touch what `clock` covers.
class ActingClock {
 public:
  explicit ActingClock(const Clock& clock);
  ~ActingClock();
};

}  // namespace emu::races
