// SPDX-License-Identifier: Apache-2.0
// Happens-before over device work, decided when work is issued and so independent of timing.
//
// A task is ordered after: earlier tasks of its stream; what an event its stream waits for stood for; and all that
// the host had seen complete when it issued the task. The host's threads count as one. Two tasks that touch the
// same bytes, one of them writing, without an order are a race. What other ranks order is known later
// (races/exchange.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/task.h"
#include "memory/access.h"
#include "memory/choice.h"
#include "races/clock.h"

namespace emu::races {

// An issued task, as reports show it.
struct Operation {
  std::string name;
  std::string stream;  // "stream 3 of npu:0", with ", captured in graph 1" in a capture
  SiteId site = 0;
  StreamId stream_id = 0;
  uint64_t index = 0;
  uint64_t order = 0;                                                 // place among all tasks the process issued
  Choices choices;                                                    // what it touches by indices
  std::function<std::optional<Part>(Range range, bool writes)> part;  // of a replay
};
using OperationPtr = std::shared_ptr<const Operation>;

// Whether the operation is ordered before what `clock` belongs to.
inline bool Covers(const Clock& clock, const Operation& operation) {
  return clock.Of(operation.stream_id) >= operation.index;
}

class History;  // races/history.h: what the program did latest
class Shadow;   // races/shadow.h: who last wrote and read each byte

// Every call is under the issue lock. The process has one checker; each capture has one more of its own, in which
// indices count the tasks of that capture, and what tasks touch by indices counts in whole: they run later, and
// again.
class Checker {
 public:
  explicit Checker(std::string where);  // "" or ", captured in graph 1"
  ~Checker();

  // Orders the task, reports its conflicts, remembers its accesses. Returns it as reports show it.
  // `index` is the one the stream gives the task (Stream::pushed() + 1).
  OperationPtr Issue(StreamId stream, uint64_t index, const std::string& stream_name, const Task& task);

  Clock ClockOf(StreamId stream) const;  // what an event recorded now stands for
  void Wait(StreamId stream, const Clock& clock);
  void HostSaw(const Clock& clock);
  const Clock& host() const { return host_; }
  // Its allocator may hand the memory out again: what `clock` covers is ordered before the next use of it.
  void Reuse(Range range, const Clock& clock);
  void Forget(Range range);      // memory that went back to the runtime
  size_t num_intervals() const;  // how finely memory is divided now, for statistics

 private:
  struct StreamState {
    Clock clock;
    uint64_t host_version = 0;  // of the host's clock that `clock` has joined
  };
  StreamState& State(StreamId stream);

  std::vector<StreamState> streams_;
  Clock host_;
  uint64_t host_version_ = 0;
  const std::string where_;
  std::unique_ptr<Shadow> shadow_;
  std::unique_ptr<History> history_;  // null where no page is made of it: without EMULATOR_RACE_LOG
};

Checker& ProcessChecker();

// Whether conflicts are looked for; starts as EMULATOR_RACES says. Orders are kept either way.
bool Checking();
void SetChecking(bool on);

struct Statistics {
  uint64_t tasks = 0;
  uint64_t copies = 0;
  uint64_t bytes = 0;      // that the tasks read and wrote
  uint64_t intervals = 0;  // of the process's checker, now
};
Statistics GetStatistics();

}  // namespace emu::races
