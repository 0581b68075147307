// SPDX-License-Identifier: Apache-2.0
// Captured graphs: tasks with the orders between them, replayed as one task of the replaying stream.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/stream.h"
#include "races/checker.h"

namespace emu {

struct Word;

struct Node {
  std::shared_ptr<const Task> task;  // null: only an order
  std::vector<uint32_t> after;       // nodes that must have run
  Accesses accesses;                 // of the task last issued for it, which an update has yet to put in place
  Choices choices;                   // of the same
};

// Tasks of a graph that may be exchanged after the capture.
struct TaskGroup {
  std::vector<uint32_t> nodes;
};

// A finished capture.
struct Graph {
  uint32_t id = 0;
  std::vector<Node> nodes;
  std::vector<std::unique_ptr<TaskGroup>> groups;
  std::vector<std::shared_ptr<Word>> words;  // that its nodes wait for
  std::mutex mutex;                          // nodes[].task, which a running replay reads
};

constexpr uint32_t kNothing = UINT32_MAX;

// A capture under way. Under the issue lock.
class Capture {
 public:
  Capture(uint32_t id, Stream& origin);
  ~Capture();

  void Add(Stream& stream, Task task);
  // Recording and waiting inside the capture; a stream joins by waiting.
  uint32_t Record(Stream& stream);  // returns the recording's node, or kNothing at the beginning
  void Wait(Stream& stream, uint32_t node, const races::Clock& clock);
  void NoteWord(const std::shared_ptr<Word>& word) { graph_->words.push_back(word); }  // that a task waits for
  // Tasks that are added between the two form a group.
  void BeginGroup(Stream& stream);
  TaskGroup* EndGroup(Stream& stream);
  // A call that cannot be captured was made: End will throw.
  void Invalidate(const std::string& why);
  // Throws Error unless the capture began on `stream`.
  void CheckOrigin(const Stream& stream) const;
  // Ends it. Throws Error naming every side stream whose work the origin has not waited for.
  std::shared_ptr<Graph> End(Stream& origin);

  uint32_t id() const { return id_; }
  bool ended() const { return ended_; }
  bool valid() const { return invalid_.empty(); }
  races::Checker& checker() { return checker_; }

 private:
  struct Tail;  // per stream: its last nodes
  Tail& TailOf(Stream& stream);
  std::string DescribeUnjoined(const Tail& origin) const;

  const uint32_t id_;
  Stream& origin_;
  races::Checker checker_;  // the capture's own: streams of one graph against each other
  std::vector<std::unique_ptr<Tail>> tails_;
  std::shared_ptr<Graph> graph_;
  std::string invalid_;
  bool ended_ = false;
};

// Enqueues one task that runs the nodes in an order that respects `after`, chosen by the schedule's seed.
void Replay(const std::shared_ptr<Graph>& graph, Stream& stream);

// Tasks that are issued on the stream between the two replace the group's, in order, when the stream gets there.
void BeginUpdate(Stream& stream, const std::shared_ptr<Graph>& graph, TaskGroup* group);
void AddToUpdate(Stream& stream, Task task);  // under the issue lock
void EndUpdate(Stream& stream);

// Throws Error, and spoils the capture, when the stream is being captured.
void ForbidCaptured(Stream& stream, const char* what);

std::string DescribeGraph(const Graph& graph);  // one line for each node

}  // namespace emu
