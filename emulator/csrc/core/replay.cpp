// SPDX-License-Identifier: Apache-2.0
// Running captured graphs, and exchanging the tasks of captured groups.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "core/failure.h"
#include "core/graph.h"
#include "core/schedule.h"
#include "core/settings.h"
#include "core/word.h"
#include "memory/memory.h"
#include "memory/merge.h"
#include "memory/rows.h"
#include "races/checker.h"
#include "races/verdict.h"

namespace emu {

struct TaskUpdate {
  std::shared_ptr<Graph> graph;
  TaskGroup* group = nullptr;
  std::vector<std::shared_ptr<const Task>> tasks;
};

namespace {

// An order that respects `after`: with seed 0 that of the capture. Tasks with tickets keep that of the capture.
std::vector<uint32_t> ChooseOrder(Graph& graph) {
  const std::lock_guard<std::mutex> lock(graph.mutex);
  const size_t count = graph.nodes.size();
  std::vector<std::vector<uint32_t>> before(count);
  std::vector<size_t> missing(count);
  std::set<uint32_t> ready;
  std::optional<uint32_t> last_issued;
  for (uint32_t i = 0; i < count; ++i) {
    std::vector<uint32_t> after = graph.nodes[i].after;
    if (graph.nodes[i].task && graph.nodes[i].task->issued) {
      if (last_issued) after.push_back(*last_issued);
      last_issued = i;
    }
    missing[i] = after.size();
    for (const uint32_t earlier : after) before[earlier].push_back(i);
    if (missing[i] == 0) ready.insert(i);
  }
  std::vector<uint32_t> order;
  while (!ready.empty()) {
    const auto chosen = std::next(ready.begin(), static_cast<int64_t>(Choose(ready.size())));
    const uint32_t node = *chosen;
    ready.erase(chosen);
    order.push_back(node);
    for (const uint32_t later : before[node]) {
      if (--missing[later] == 0) ready.insert(later);
    }
  }
  return order;
}

// The choices of one replay, which reads other indices than the next: by those of the captured tasks.
using ChoicesOfReplay = std::unordered_map<const Choice*, std::shared_ptr<Choice>>;

// A task that was not known when the replay was issued tells nothing of what it was taken to choose.
void TellChosen(const Task& task, const Choices& expected, const ChoicesOfReplay& fresh) {
  Choices choices;
  for (const auto& choice : expected) choices.push_back(fresh.at(choice.get()));
  if (!choices.empty()) races::Tell(choices, task.choices == expected ? task.choose() : Chosen());
}

struct ReplayedNode {
  uint32_t number;
  Choices choices;  // of its task when the replay was issued
};

void RunNode(Graph& graph, const ReplayedNode& node, const ChoicesOfReplay& fresh) {
  std::shared_ptr<const Task> task;
  {
    const std::lock_guard<std::mutex> lock(graph.mutex);
    task = graph.nodes[node.number].task;
  }
  if (!task) return;
  if (GetSettings().trace) std::fprintf(stderr, "[emulator]   graph %u: %s\n", graph.id, task->name.c_str());
  TellChosen(*task, node.choices, fresh);
  try {
    task->run();
  } catch (const std::exception& error) {
    throw Error(kDeviceError, task->name + ": " + error.what() + "\n  captured at " + DescribeSite(task->site));
  }
}

// Under the issue lock: what one replay touches.
Accesses AccessesOf(const Graph& graph, ChoicesOfReplay* fresh) {
  Accesses all;
  for (const Node& node : graph.nodes) {
    for (const auto& choice : node.choices) {
      auto& own = (*fresh)[choice.get()];
      own = std::make_shared<Choice>();
      own->indices = choice->indices;
    }
    for (Access access : node.accesses) {
      if (access.choice) access.choice = fresh->at(access.choice.get());
      all.push_back(std::move(access));
    }
  }
  return Merge(std::move(all));
}

// The node's task that touches the range, first of all one that does so in this way.
std::optional<Part> PartOf(Graph& graph, Range range, bool writes) {
  const std::lock_guard<std::mutex> lock(graph.mutex);
  for (const bool as_said : {true, false}) {
    for (const Node& node : graph.nodes) {
      Range shared;
      const bool touches = std::any_of(node.accesses.begin(), node.accesses.end(), [&](const Access& access) {
        return (access.write == writes || !as_said) && Meet(access, {range}, &shared);
      });
      if (touches && node.task) return Part{node.task->name, node.task->site};
    }
  }
  return std::nullopt;
}

// A replay that was captured from memory which is gone must not run.
void CheckLive(const Graph& graph, const Accesses& accesses) {
  const std::string what = "memory of graph " + std::to_string(graph.id);
  for (const Access& access : accesses) {
    if (!IsPageLocked(reinterpret_cast<void*>(access.range.begin))) CheckDeviceRange(access.range, what);
  }
}

void Exchange(const TaskUpdate& update) {
  const std::lock_guard<std::mutex> lock(update.graph->mutex);
  for (size_t i = 0; i < update.tasks.size(); ++i) {
    update.graph->nodes[update.group->nodes[i]].task = update.tasks[i];
  }
}

}  // namespace

void Replay(const std::shared_ptr<Graph>& graph, Stream& stream) {
  Task task;
  task.name = "replay of graph " + std::to_string(graph->id);
  task.replays = true;
  bool exchanges = false;
  ChoicesOfReplay fresh;
  std::vector<ReplayedNode> order;
  for (const uint32_t node : ChooseOrder(*graph)) order.push_back({node, {}});
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    if (stream.capture) throw Error(kFeatureNotSupported, "not emulated: capturing the replay of a graph");
    task.accesses = AccessesOf(*graph, &fresh);
    for (const auto& [captured, own] : fresh) task.choices.push_back(own);
    for (ReplayedNode& node : order) node.choices = graph->nodes[node.number].choices;
    CheckLive(*graph, task.accesses);
    for (const auto& word : graph->words) races::ProcessChecker().Wait(stream.id(), word->clock);
    const std::lock_guard<std::mutex> graph_lock(graph->mutex);
    for (const Node& node : graph->nodes) {
      task.calls_host |= node.task && node.task->calls_host;
      exchanges |= node.task && node.task->issued;
    }
  }
  if (exchanges)
    task.issued = [graph] {
      const std::lock_guard<std::mutex> graph_lock(graph->mutex);
      for (const Node& node : graph->nodes) {
        if (node.task && node.task->issued) node.task->issued();
      }
    };
  task.part = [weak = std::weak_ptr<Graph>(graph)](Range range, bool writes) -> std::optional<Part> {
    const auto captured = weak.lock();
    return captured ? PartOf(*captured, range, writes) : std::nullopt;
  };
  task.run = [graph, order = std::move(order), fresh = std::move(fresh)] {
    for (const ReplayedNode& node : order) RunNode(*graph, node, fresh);
  };
  Enqueue(stream, std::move(task));
}

void BeginUpdate(Stream& stream, const std::shared_ptr<Graph>& graph, TaskGroup* group) {
  const std::lock_guard<std::mutex> lock(IssueLock());
  if (stream.capture)
    throw Error(kCaptureForbidden, stream.Describe() + " is being captured: no task update there");
  if (stream.update) throw Error(kInvalidParam, "a task update is already open on " + stream.Describe());
  stream.update = std::make_shared<TaskUpdate>(TaskUpdate{graph, group, {}});
}

void AddToUpdate(Stream& stream, Task task) {
  if (task.issued) throw Error(kFeatureNotSupported, "not emulated: a task with tickets in a task update");
  stream.update->tasks.push_back(std::make_shared<const Task>(std::move(task)));
}

void EndUpdate(Stream& stream) {
  std::shared_ptr<TaskUpdate> update;
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    update.swap(stream.update);
    if (!update) throw Error(kInvalidParam, "no task update is open on " + stream.Describe());
    const size_t wanted = update->group->nodes.size();
    if (update->tasks.size() != wanted) {
      throw Error(kInvalidParam, "the group has " + std::to_string(wanted) + " tasks, the update " +
                                     std::to_string(update->tasks.size()));
    }
    const std::lock_guard<std::mutex> graph_lock(update->graph->mutex);
    for (size_t i = 0; i < wanted; ++i) {
      Node& node = update->graph->nodes[update->group->nodes[i]];
      node.accesses = update->tasks[i]->accesses;
      node.choices = update->tasks[i]->choices;
    }
  }
  Task task;
  task.name = "update of graph " + std::to_string(update->graph->id);
  task.run = [update] { Exchange(*update); };
  Enqueue(stream, std::move(task));
}

}  // namespace emu
