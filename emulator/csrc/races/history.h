// SPDX-License-Identifier: Apache-2.0
// What the program did latest, for the page of a report: tasks, and who was made to wait for whom.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "races/checker.h"
#include "races/clock.h"

namespace emu::races {

// What is shown of an operation: an Operation itself may keep a graph alive.
struct ShownTask {
  std::string name;
  std::string stream;
  SiteId site = 0;
  StreamId lane = 0;
  uint64_t index = 0;
  uint64_t order = 0;
};

// A task, or a wait where `task` is null: `waiter` is ordered after what it has `seen`.
struct Step {
  std::shared_ptr<const ShownTask> task;
  StreamId waiter = 0;
  std::vector<std::pair<StreamId, uint64_t>> seen;
};

// Steps from one task to another, oldest first.
struct Excerpt {
  std::vector<Step> before;
  size_t num_left_out = 0;  // between the two
  std::vector<Step> after;

  // A JSON list. Tasks: {"task": name, "stream": its name, "lane", "index", "at": its Python line}; waits:
  // {"waiter": lane, "for": [[lane, index], ...]}; a number says how many steps are left out there.
  std::string Json() const;
};
using ExcerptPtr = std::shared_ptr<const Excerpt>;

// Every call is under the issue lock.
class History {
 public:
  void Issued(const Operation& operation);
  // A stream, or the program where `waiter` is kHost, is ordered after what `clock` covers; `known` is what it was
  // ordered after before.
  void Waited(StreamId waiter, const Clock& known, const Clock& clock);
  // From `first` to what was issued last.
  ExcerptPtr Since(const Operation& first) const;

  static constexpr StreamId kHost = ~StreamId{0};  // its lane is -1
  static std::string Lane(StreamId stream) { return stream == kHost ? "-1" : std::to_string(stream); }

 private:
  void Keep(Step step);

  std::deque<Step> steps_;
};

// `text` in quotes, as JSON has it.
std::string Quoted(const std::string& text);

}  // namespace emu::races
