// SPDX-License-Identifier: Apache-2.0
#include "races/exchange.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "races/fork.h"

namespace emu::races {
namespace {

constexpr size_t kMostKept = 1024;  // messages of a stream

using Sender = std::pair<uint64_t, uint64_t>;  // process and stream
using Known = std::map<Sender, uint64_t>;      // the last task of each that is ordered before

struct Running {
  StreamId stream;
  uint64_t index;
  Clock clock;  // itself included
  bool alone;
};

struct Deferred {
  Conflict conflict;
  OperationPtr second;
  Clock clock;
};

struct OfStream {
  uint64_t first = 0;                               // index of its first exchange; 0: none
  std::map<uint64_t, Clock> sent;                   // by the task's index
  std::deque<std::pair<uint64_t, Known>> received;  // by the task's index: all that has come so far
};

struct Exchanges {
  Exchanges() : process(std::random_device()() | uint64_t{std::random_device()()} << 32) {}

  const uint64_t process;
  std::mutex mutex;
  std::vector<OfStream> streams;
  std::map<std::pair<StreamId, uint64_t>, std::vector<Deferred>> deferred;
  std::atomic<size_t> num_deferred{0};
};

Resettable<Exchanges> exchanges;
thread_local const Running* running = nullptr;

void Join(Known* known, const Known& other) {
  for (const auto& [sender, index] : other) {
    uint64_t& last = (*known)[sender];
    last = std::max(last, index);
  }
}

OfStream& Of(Exchanges& all, StreamId stream) {
  if (stream >= all.streams.size()) all.streams.resize(stream + 1);
  return all.streams[stream];
}

// Under the lock: what had come to the tasks that `clock` covers.
Known KnownTo(const Exchanges& all, const Clock& clock) {
  Known known;
  for (size_t stream = 0; stream < all.streams.size(); ++stream) {
    const auto& received = all.streams[stream].received;
    const uint64_t last = clock.Of(static_cast<StreamId>(stream));
    const auto after =
        std::find_if(received.begin(), received.end(), [&](const auto& one) { return one.first > last; });
    if (after != received.begin()) Join(&known, std::prev(after)->second);
  }
  return known;
}

// Under the lock: whether a message that is known there had left after the operation.
bool Ordered(const Exchanges& all, const Clock& clock, const Operation& first) {
  const Known known = KnownTo(all, clock);
  return std::any_of(known.begin(), known.end(), [&](const auto& one) {
    const auto& [sender, index] = one;
    if (sender.first != all.process || sender.second >= all.streams.size()) return false;
    const auto& sent = all.streams[sender.second].sent;
    const auto found = sent.find(index);
    return found != sent.end() && Covers(found->second, first);
  });
}

}  // namespace

std::function<void()> Exchanging(StreamId stream, uint64_t index, Clock clock, bool alone,
                                 std::function<void()> run) {
  Exchanges& all = exchanges.get();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    OfStream& of = Of(all, stream);
    if (of.first == 0) of.first = index;
  }
  return [task = Running{stream, index, std::move(clock), alone}, run = std::move(run)] {
    struct Scope {
      explicit Scope(const Running* task) { running = task; }
      ~Scope() { running = nullptr; }
    } scope(&task);
    run();
  };
}

void Depart(bool whole, Marks* marks) {
  marks->count = 0;
  if (running == nullptr) return;
  Exchanges& all = exchanges.get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  Clock before = running->clock;  // what this task itself has received is not ordered before what it sends
  before.Set(running->stream, running->index - 1);
  Known known = KnownTo(all, before);
  auto& sent = Of(all, running->stream).sent;
  sent[running->index] = whole && running->alone ? running->clock : std::move(before);
  if (sent.size() > kMostKept) sent.erase(sent.begin());
  marks->marks[marks->count++] = {all.process, running->stream, running->index};
  known.erase({all.process, running->stream});  // the mark of before, which this one covers
  for (const auto& [sender, index] : known) {
    if (marks->count == kMostMarks) break;
    marks->marks[marks->count++] = {sender.first, sender.second, index};
  }
}

void Arrive(const Marks& marks) {
  if (running == nullptr) return;
  Exchanges& all = exchanges.get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto& received = Of(all, running->stream).received;
  if (received.empty() || received.back().first != running->index) {
    received.emplace_back(running->index, received.empty() ? Known() : received.back().second);
    if (received.size() > kMostKept) received.pop_front();
  }
  Known& known = received.back().second;
  for (size_t i = 0; i < std::min<size_t>(marks.count, kMostMarks); ++i) {
    const Mark& mark = marks.marks[i];
    uint64_t& last = known[{mark.process, mark.stream}];
    last = std::max(last, mark.index);
  }
}

bool MayKnowMore(const Clock& clock) {
  Exchanges& all = exchanges.get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (size_t stream = 0; stream < all.streams.size(); ++stream) {
    const uint64_t first = all.streams[stream].first;
    if (first != 0 && clock.Of(static_cast<StreamId>(stream)) >= first) return true;
  }
  return false;
}

void Defer(Conflict conflict, const OperationPtr& second, const Clock& clock) {
  Exchanges& all = exchanges.get();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.deferred[{second->stream_id, second->index}].push_back({std::move(conflict), second, clock});
  all.num_deferred.fetch_add(1);
}

void Begin(StreamId stream, uint64_t index) {
  Exchanges& all = exchanges.get();
  if (all.num_deferred.load() == 0) return;
  std::vector<Deferred> unordered;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    auto node = all.deferred.extract({stream, index});
    if (node.empty()) return;
    all.num_deferred.fetch_sub(node.mapped().size());
    for (Deferred& pair : node.mapped()) {
      if (!Ordered(all, pair.clock, *pair.conflict.first)) unordered.push_back(std::move(pair));
    }
  }
  for (Deferred& pair : unordered) Judge(std::move(pair.conflict), pair.second);
}

}  // namespace emu::races
