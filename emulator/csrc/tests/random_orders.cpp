// SPDX-License-Identifier: Apache-2.0
// Property test of the checker alone: random programs of tasks, events and host synchronisations on a few streams,
// against an oracle that keeps every task and the whole order as a relation.
//   random_orders PROGRAMS SEED
// Both must agree, task by task, on whether a task races with an earlier one, up to the first race of a program
// (after it the checker keeps less than the oracle). The pairs that the checker names must race for the oracle.
// What some tasks touch by indices the oracle knows at once, and the checker when they run, which may be much
// later.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "memory/choice.h"
#include "memory/rows.h"
#include "races/checker.h"
#include "races/report.h"
#include "races/shadow.h"
#include "races/verdict.h"

namespace {

using emu::Access;
using emu::Range;
using emu::races::Checker;
using emu::races::Clock;

constexpr int kMostStreams = 4;
constexpr uintptr_t kBase = 0x10000;

// Every task so far and, for each, the set of tasks ordered before it.
struct Oracle {
  struct Done {
    int stream;
    emu::Accesses accesses;
    std::set<size_t> before;
  };
  std::vector<Done> tasks;
  std::set<size_t> seen[kMostStreams];  // ordered before the stream's next task
  std::set<size_t> host;

  static bool Touches(const Access& access, uintptr_t byte) {
    if (byte < access.range.begin || byte >= access.range.end) return false;
    return !access.rows || InRows(*access.rows, 0, static_cast<int64_t>(byte - access.range.begin));
  }

  static bool InRows(const emu::Rows& rows, size_t dim, int64_t offset) {
    if (dim == rows.dims.size()) return offset >= 0 && offset < rows.bytes;
    for (int64_t i = 0; i < rows.dims[dim].size; ++i) {
      if (InRows(rows, dim + 1, offset - i * rows.dims[dim].step)) return true;
    }
    return false;
  }

  static bool Conflict(const emu::Accesses& a, const emu::Accesses& b) {
    for (const Access& x : a) {
      for (const Access& y : b) {
        if (!x.write && !y.write) continue;
        for (uintptr_t byte = x.range.begin; byte < x.range.end; ++byte) {
          if (Touches(x, byte) && Touches(y, byte)) return true;
        }
      }
    }
    return false;
  }

  // The earlier tasks it races with.
  std::set<size_t> Issue(int stream, const emu::Accesses& accesses) {
    std::set<size_t>& before = seen[stream];
    before.insert(host.begin(), host.end());
    std::set<size_t> races;
    for (size_t i = 0; i < tasks.size(); ++i) {
      if (before.count(i) == 0 && Conflict(tasks[i].accesses, accesses)) races.insert(i);
    }
    tasks.push_back({stream, accesses, before});
    before.insert(tasks.size() - 1);
    return races;
  }
};

struct Event {
  Clock clock;
  std::set<size_t> seen;
};

class Program {
 public:
  explicit Program(uint64_t seed) : random_(seed), num_streams_(2 + Pick(kMostStreams - 1)) {}

  // False when the checker and the oracle disagree.
  bool Run() {
    Event events[3];
    const int num_steps = 5 + Pick(60);
    const int task_share = 30 + Pick(60);  // percent
    for (int step = 0; step < num_steps; ++step) {
      const int stream = Pick(num_streams_);
      Event& event = events[Pick(3)];
      if (Pick(4) == 0) RunNext(Pick(num_streams_));
      if (Pick(100) < task_share) {
        bool raced = false;
        if (!IssueOne(stream, &raced)) return false;
        if (raced) return true;
        continue;
      }
      switch (Pick(5)) {
        case 0:
        case 1:
          event = {checker_.ClockOf(stream), oracle_.seen[stream]};
          break;
        case 2:
        case 3:
          checker_.Wait(stream, event.clock);
          oracle_.seen[stream].insert(event.seen.begin(), event.seen.end());
          break;
        default:
          HostSees(Pick(2) == 0 ? event : Event{checker_.ClockOf(stream), oracle_.seen[stream]});
      }
    }
    RunAll();
    if (emu::races::NumReports() == 0) return true;
    std::printf("the oracle knows of no race: %s\n", emu::races::ReportText(0).c_str());
    return false;
  }

 private:
  int Pick(int choices) { return static_cast<int>(random_() % static_cast<uint64_t>(choices)); }

  void HostSees(const Event& event) {
    checker_.HostSaw(event.clock);
    oracle_.host.insert(event.seen.begin(), event.seen.end());
  }

  emu::Accesses RandomAccesses() {
    constexpr int kBytes = 24;
    emu::Accesses accesses;
    const int count = 1 + Pick(3);
    for (int i = 0; i < count; ++i) {
      const auto begin = static_cast<uintptr_t>(Pick(kBytes));
      const auto size = static_cast<uintptr_t>(Pick(10));  // 0 is a legal, empty operand
      const bool write = Pick(3) == 0;
      if (Pick(3) == 0) {
        accesses.push_back(RandomRows(kBase + begin, write));
      } else {
        accesses.push_back({{kBase + begin, kBase + begin + size}, write, nullptr});
      }
    }
    return accesses;
  }

  // What `access` comes to when the task runs: parts of it, none, or all of it where its indices name nothing.
  std::optional<emu::Accesses> RandomPieces(const Access& access) {
    if (Pick(8) == 0) return std::nullopt;
    emu::Accesses pieces;
    for (uintptr_t at = access.range.begin + static_cast<uintptr_t>(Pick(4)); at < access.range.end;
         at += static_cast<uintptr_t>(1 + Pick(6))) {
      const auto end = std::min(access.range.end, at + static_cast<uintptr_t>(1 + Pick(4)));
      pieces.push_back({{at, end}, false, nullptr});
      if (Pick(3) == 0) break;
    }
    return pieces;
  }

  // Lets some of the accesses depend on indices; returns what the oracle is told.
  emu::Accesses Choose(emu::Task* task) {
    emu::Accesses touched;
    emu::Chosen chosen;
    for (Access& access : task->accesses) {
      if (access.rows || Pick(3) != 0) {
        touched.push_back(access);
        continue;
      }
      const auto pieces = RandomPieces(access);
      for (const Access& piece : pieces.value_or(emu::Accesses{access})) {
        touched.push_back({piece.range, access.write, nullptr});
      }
      access.choice = std::make_shared<emu::Choice>();
      task->choices.push_back(access.choice);
      chosen.push_back(pieces);
    }
    task->choose = [chosen] { return chosen; };
    return touched;
  }

  void RunNext(int stream) {
    auto& queue = waiting_[stream];
    if (queue.empty()) return;
    emu::races::Tell(queue.front().choices, queue.front().choose());
    queue.pop_front();
  }

  void RunAll() {
    for (int stream = 0; stream < num_streams_; ++stream) {
      while (!waiting_[stream].empty()) RunNext(stream);
    }
  }

  Access RandomRows(uintptr_t begin, bool write) {
    std::vector<emu::Dim> dims;
    for (int i = Pick(3); i >= 0; --i) dims.push_back({2 + Pick(3), 1 + Pick(7)});
    std::sort(dims.begin(), dims.end(), [](const auto& a, const auto& b) { return a.step > b.step; });
    auto rows = std::make_shared<const emu::Rows>(1 + Pick(3), dims);
    const auto span = static_cast<uintptr_t>(rows->span[0]);
    return {{begin, begin + span}, write, std::move(rows)};
  }

  bool IssueOne(int stream, bool* raced) {
    emu::Task task;
    const size_t number = oracle_.tasks.size();
    task.name = "task" + std::to_string(number) + ".";
    task.accesses = RandomAccesses();
    const std::set<size_t> expected = oracle_.Issue(stream, Choose(&task));
    const auto stream_id = static_cast<emu::races::StreamId>(stream);
    checker_.Issue(stream_id, ++pushed_[stream], "stream " + std::to_string(stream), task);
    waiting_[stream].push_back(task);
    *raced = !expected.empty();
    if (*raced) RunAll();
    const uint64_t num_reports = emu::races::NumReports();
    if (*raced != (num_reports > 0)) {
      std::printf("task %zu: the oracle says %s, the checker has %llu reports\n", number, *raced ? "race" : "none",
                  static_cast<unsigned long long>(num_reports));
      return false;
    }
    for (uint64_t i = 0; i < num_reports; ++i) {
      if (!NamesOneOf(expected, emu::races::ReportText(i))) return false;
    }
    return true;
  }

  static bool NamesOneOf(const std::set<size_t>& expected, const std::string& text) {
    for (const size_t first : expected) {
      if (text.find("first:  task" + std::to_string(first) + ".") != std::string::npos) return true;
    }
    std::printf("the oracle has no such pair: %s\n", text.c_str());
    return false;
  }

  std::mt19937_64 random_;
  const int num_streams_;
  uint64_t pushed_[kMostStreams] = {};
  std::deque<emu::Task> waiting_[kMostStreams];  // that have not run
  Checker checker_{""};
  Oracle oracle_;
};

// A run without end must not make the checker's memory grow: what the host has seen complete is forgotten.
bool StaysSmall() {
  Checker checker("");
  emu::Task task;
  task.name = "task";
  size_t most = 0;
  for (uint64_t i = 1; i <= 200000; ++i) {
    const uintptr_t at = kBase + (i * 2654435761u) % (1u << 28);
    task.accesses = {{{at, at + 64}, i % 2 == 0, nullptr}, {{at + 64, at + 256}, false, nullptr}};
    checker.Issue(0, i, "stream 0", task);
    if (i % 100 == 0) checker.HostSaw(checker.ClockOf(0));
    most = std::max(most, checker.num_intervals());
  }
  std::printf("most intervals in 200000 tasks: %zu\n", most);
  return most <= 4096;
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t num_programs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 2000;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  if (std::freopen("/dev/null", "w", stderr) == nullptr) return 2;  // the reports
  for (uint64_t i = 0; i < num_programs; ++i) {
    emu::races::ClearReports();
    if (Program(seed + i).Run()) continue;
    std::printf("failed with: random_orders 1 %llu\n", static_cast<unsigned long long>(seed + i));
    std::fflush(stdout);
    _Exit(1);
  }
  emu::races::ClearReports();
  std::printf("%llu random programs agree\n", static_cast<unsigned long long>(num_programs));
  return StaysSmall() ? 0 : 1;
}
