// SPDX-License-Identifier: Apache-2.0
#include "races/history.h"

#include <cstdio>

namespace emu::races {
namespace {

constexpr size_t kKept = 1024;  // entries
constexpr size_t kShown = 24;   // at each end of a list
constexpr char kCallers[] = " < ";

std::string Innermost(SiteId site) {
  const std::string text = DescribeSite(site);
  return text.substr(0, text.find(kCallers));
}

}  // namespace

void History::Keep(Entry entry) {
  if (entries_.size() == kKept) entries_.pop_front();
  entries_.push_back(std::move(entry));
}

void History::Issued(const OperationPtr& operation) { Keep({operation, 0, {}}); }

void History::Waited(StreamId waiter, const Clock& known, const Clock& clock) {
  Entry entry{nullptr, waiter, {}};
  for (StreamId stream = 0; stream < clock.num_streams(); ++stream) {
    if (stream != waiter && clock.Of(stream) > known.Of(stream)) entry.seen.emplace_back(stream, clock.Of(stream));
  }
  if (!entry.seen.empty()) Keep(std::move(entry));
}

std::string History::Since(const Operation& first) const {
  size_t begin = entries_.size();
  while (begin > 0 && !(entries_[begin - 1].operation && entries_[begin - 1].operation->order < first.order))
    --begin;
  const size_t num_left_out = entries_.size() - begin > 2 * kShown ? entries_.size() - begin - 2 * kShown : 0;
  std::string text = "[";
  for (size_t i = begin; i < entries_.size(); ++i) {
    if (i > begin) text += ", ";
    if (num_left_out > 0 && i == begin + kShown) {
      text += std::to_string(num_left_out) + ", ";
      i += num_left_out;
    }
    const Entry& entry = entries_[i];
    if (entry.operation) {
      text += "{\"task\": " + Quoted(entry.operation->name) + ", \"stream\": " + Quoted(entry.operation->stream) +
              ", \"lane\": " + Lane(entry.operation->stream_id) +
              ", \"index\": " + std::to_string(entry.operation->index) +
              ", \"at\": " + Quoted(Innermost(entry.operation->site)) + "}";
      continue;
    }
    text += "{\"waiter\": " + Lane(entry.waiter) + ", \"for\": [";
    for (const auto& [stream, index] : entry.seen) {
      text +=
          (&entry.seen.front().first == &stream ? "[" : ", [") + Lane(stream) + ", " + std::to_string(index) + "]";
    }
    text += "]}";
  }
  return text + "]";
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
