// SPDX-License-Identifier: Apache-2.0
#include "core/graph.h"

#include <algorithm>

#include "core/failure.h"
#include "races/report.h"

namespace emu {

// A stream in the capture.
struct Capture::Tail {
  Stream* stream = nullptr;
  std::vector<uint32_t> last;  // nodes that the stream's next one comes after
  std::vector<uint32_t> own;   // the stream's own nodes
  std::unique_ptr<TaskGroup> group;
};

Capture::Capture(uint32_t id, Stream& origin)
    : id_(id),
      origin_(origin),
      checker_(", captured in graph " + std::to_string(id)),
      graph_(std::make_shared<Graph>()) {
  graph_->id = id;
  TailOf(origin);
}

Capture::~Capture() = default;

Capture::Tail& Capture::TailOf(Stream& stream) {
  for (const auto& tail : tails_) {
    if (tail->stream == &stream) return *tail;
  }
  tails_.push_back(std::make_unique<Tail>());
  tails_.back()->stream = &stream;
  return *tails_.back();
}

void Capture::Add(Stream& stream, Task task) {
  Tail& tail = TailOf(stream);
  const auto node = static_cast<uint32_t>(graph_->nodes.size());
  tail.own.push_back(node);
  if (tail.group) tail.group->nodes.push_back(node);
  checker_.Issue(stream.id(), tail.own.size(), stream.Describe(), task);
  Accesses accesses = task.accesses;
  Choices choices = task.choices;
  auto shared = std::make_shared<const Task>(std::move(task));
  graph_->nodes.push_back({std::move(shared), std::move(tail.last), std::move(accesses), std::move(choices)});
  tail.last = {node};
}

uint32_t Capture::Record(Stream& stream) {
  Tail& tail = TailOf(stream);
  if (tail.last.empty()) return kNothing;
  if (tail.last.size() > 1) {
    const auto join = static_cast<uint32_t>(graph_->nodes.size());
    graph_->nodes.push_back({nullptr, tail.last, {}, {}});
    tail.last = {join};
  }
  return tail.last.front();
}

void Capture::Wait(Stream& stream, uint32_t node, const races::Clock& clock) {
  Tail& tail = TailOf(stream);
  checker_.Wait(stream.id(), clock);
  if (node == kNothing) return;
  if (std::find(tail.last.begin(), tail.last.end(), node) == tail.last.end()) tail.last.push_back(node);
}

void Capture::BeginGroup(Stream& stream) {
  Tail& tail = TailOf(stream);
  if (tail.group) throw Error(kInvalidParam, "a task group is already open on " + stream.Describe());
  tail.group = std::make_unique<TaskGroup>();
}

TaskGroup* Capture::EndGroup(Stream& stream) {
  Tail& tail = TailOf(stream);
  if (!tail.group) throw Error(kInvalidParam, "no task group is open on " + stream.Describe());
  graph_->groups.push_back(std::move(tail.group));
  return graph_->groups.back().get();
}

void Capture::Invalidate(const std::string& why) {
  if (invalid_.empty()) invalid_ = why;
}

// Names the streams with nodes that the origin's last nodes do not come after; "" when there are none.
std::string Capture::DescribeUnjoined(const Tail& origin) const {
  std::vector<bool> joined(graph_->nodes.size(), false);
  std::vector<uint32_t> open = origin.last;
  while (!open.empty()) {
    const uint32_t node = open.back();
    open.pop_back();
    if (joined[node]) continue;
    joined[node] = true;
    for (const uint32_t before : graph_->nodes[node].after) open.push_back(before);
  }
  std::string text;
  for (const auto& tail : tails_) {
    const bool all = std::all_of(tail->own.begin(), tail->own.end(), [&](uint32_t node) { return joined[node]; });
    if (all) continue;
    const Task& task = *graph_->nodes[tail->own.back()].task;
    text += "\n  " + tail->stream->Describe() + ": its last task is " + task.name + ", issued at " +
            DescribeSite(task.site);
  }
  return text;
}

void Capture::CheckOrigin(const Stream& stream) const {
  if (&stream != &origin_) throw Error(kInvalidParam, "the capture began on " + origin_.Describe());
}

std::shared_ptr<Graph> Capture::End(Stream& origin) {
  CheckOrigin(origin);
  ended_ = true;
  for (const auto& tail : tails_) tail->stream->capture = nullptr;
  const std::string where = "the capture of graph " + std::to_string(id_) + " on " + origin_.Describe();
  if (!invalid_.empty()) throw Error(kCaptureForbidden, where + " was spoilt by " + invalid_);
  const std::string unjoined = DescribeUnjoined(TailOf(origin));
  if (!unjoined.empty()) {
    const std::string text = where + " ended without waiting for" + unjoined;
    races::ReportFinding(races::Kind::kUnjoined, text);
    throw Error(kCaptureForbidden, text);
  }
  return graph_;
}

void ForbidCaptured(Stream& stream, const char* what) {
  const std::lock_guard<std::mutex> lock(IssueLock());
  if (!stream.capture) return;
  stream.capture->Invalidate(what);
  throw Error(kCaptureForbidden, std::string(what) + ": " + stream.Describe() + " is being captured");
}

std::string DescribeGraph(const Graph& graph) {
  std::string text = "graph " + std::to_string(graph.id) + "\n";
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    text += std::to_string(i) + ": " + (node.task ? node.task->name : "join") + " after [";
    for (size_t j = 0; j < node.after.size(); ++j) text += (j > 0 ? ", " : "") + std::to_string(node.after[j]);
    text += "]" + (node.task ? " at " + DescribeSite(node.task->site) : "") + "\n";
  }
  return text;
}

}  // namespace emu
