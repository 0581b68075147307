// SPDX-License-Identifier: Apache-2.0
// What the program did latest, for the page of a report: tasks, and who was made to wait for whom.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "races/checker.h"
#include "races/clock.h"

namespace emu::races {

class History {
 public:
  void Issued(const OperationPtr& operation);
  // A stream, or the program where `waiter` is kHost, is ordered after what `clock` covers; `known` is what it was
  // ordered after before.
  void Waited(StreamId waiter, const Clock& known, const Clock& clock);

  // A JSON list, oldest first, from `first` to what was issued last. Entries: {"task": name, "stream": its name,
  // "lane", "index", "at": its Python line} and {"waiter": lane, "for": [[lane, index], ...]}; kHost's lane is -1.
  // A number among them says how many entries are left out there.
  std::string Since(const Operation& first) const;

  static constexpr StreamId kHost = ~StreamId{0};
  static std::string Lane(StreamId stream) { return stream == kHost ? "-1" : std::to_string(stream); }

 private:
  struct Entry {
    OperationPtr operation;  // null: a wait
    StreamId waiter = 0;
    std::vector<std::pair<StreamId, uint64_t>> seen;
  };
  void Keep(Entry entry);

  std::deque<Entry> entries_;
};

// `text` in quotes, as JSON has it.
std::string Quoted(const std::string& text);

}  // namespace emu::races
