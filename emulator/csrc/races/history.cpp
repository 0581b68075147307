// SPDX-License-Identifier: Apache-2.0
#include "races/history.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <iterator>

namespace emu::races {
namespace {

constexpr size_t kKept = 1024;  // entries
constexpr size_t kShown = 24;   // at each end of a list
constexpr char kCallers[] = " < ";

std::string Innermost(SiteId site) {
  const std::string text = DescribeSite(site);
  return text.substr(0, text.find(kCallers));
}

std::string TaskJson(const ShownTask& task) {
  return "{\"task\": " + Quoted(task.name) + ", \"stream\": " + Quoted(task.stream) +
         ", \"lane\": " + History::Lane(task.lane) + ", \"index\": " + std::to_string(task.index) +
         ", \"at\": " + Quoted(Innermost(task.site)) + "}";
}

std::string WaitJson(const Step& step) {
  std::string text = "{\"waiter\": " + History::Lane(step.waiter) + ", \"for\": [";
  const char* separator = "";
  for (const auto& [stream, index] : step.seen) {
    text += separator + ("[" + History::Lane(stream)) + ", " + std::to_string(index) + "]";
    separator = ", ";
  }
  return text + "]}";
}

}  // namespace

std::string Excerpt::Json() const {
  std::string text;
  const auto add = [&text](const std::string& entry) { text += (text.empty() ? "" : ", ") + entry; };
  for (const std::vector<Step>* steps : {&before, &after}) {
    if (steps == &after && num_left_out > 0) add(std::to_string(num_left_out));
    for (const Step& step : *steps) add(step.task ? TaskJson(*step.task) : WaitJson(step));
  }
  return "[" + text + "]";
}

void History::Keep(Step step) {
  if (steps_.size() == kKept) steps_.pop_front();
  steps_.push_back(std::move(step));
}

void History::Issued(const Operation& operation) {
  const ShownTask task{operation.name,      operation.stream, operation.site,
                       operation.stream_id, operation.index,  operation.order};
  Keep({std::make_shared<const ShownTask>(task), 0, {}});
}

void History::Waited(StreamId waiter, const Clock& known, const Clock& clock) {
  Step step{nullptr, waiter, {}};
  for (StreamId stream = 0; stream < clock.num_streams(); ++stream) {
    if (stream != waiter && clock.Of(stream) > known.Of(stream)) step.seen.emplace_back(stream, clock.Of(stream));
  }
  if (!step.seen.empty()) Keep(std::move(step));
}

ExcerptPtr History::Since(const Operation& first) const {
  auto begin = steps_.end();
  while (begin != steps_.begin()) {
    const auto& task = std::prev(begin)->task;
    if (task && task->order < first.order) break;
    --begin;
  }
  const size_t size = static_cast<size_t>(steps_.end() - begin);
  const auto excerpt = std::make_shared<Excerpt>();
  excerpt->num_left_out = size > 2 * kShown ? size - 2 * kShown : 0;
  const auto middle = begin + static_cast<std::ptrdiff_t>(std::min(size, kShown));
  excerpt->before.assign(begin, middle);
  excerpt->after.assign(middle + static_cast<std::ptrdiff_t>(excerpt->num_left_out), steps_.end());
  return excerpt;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      quoted += code;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace emu::races
