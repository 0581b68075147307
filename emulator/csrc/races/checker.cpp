// SPDX-License-Identifier: Apache-2.0
#include "races/checker.h"

#include <atomic>
#include <utility>

#include "core/settings.h"
#include "memory/rows.h"
#include "races/blocks.h"
#include "races/exchange.h"
#include "races/fork.h"
#include "races/history.h"
#include "races/report.h"
#include "races/shadow.h"

namespace emu::races {
namespace {

std::atomic<uint64_t> num_tasks{0};
std::atomic<uint64_t> num_copies{0};
std::atomic<uint64_t> num_bytes{0};

std::atomic<bool>& CheckingFlag() {
  static std::atomic<bool> on{GetSettings().races};
  return on;
}

void Count(const Task& task) {
  num_tasks.fetch_add(1, std::memory_order_relaxed);
  if (task.name.compare(0, 4, "copy") == 0) num_copies.fetch_add(1, std::memory_order_relaxed);
  uint64_t bytes = 0;
  for (const Access& access : task.accesses) {
    if (access.range.Empty()) continue;
    bytes += access.rows ? static_cast<uint64_t>(access.rows->count * access.rows->bytes)
                         : access.range.end - access.range.begin;
  }
  num_bytes.fetch_add(bytes, std::memory_order_relaxed);
}

}  // namespace

Checker::Checker(std::string where) : where_(std::move(where)), shadow_(std::make_unique<Shadow>()) {
  if (!GetSettings().race_log.empty()) history_ = std::make_unique<History>();
}

Checker::~Checker() = default;

Checker::StreamState& Checker::State(StreamId stream) {
  if (stream >= streams_.size()) streams_.resize(stream + 1);
  StreamState& state = streams_[stream];
  if (state.host_version != host_version_) {
    state.clock.Join(host_);
    state.host_version = host_version_;
  }
  return state;
}

OperationPtr Checker::Issue(StreamId stream, uint64_t index, const std::string& stream_name, const Task& task) {
  Clock& clock = State(stream).clock;
  clock.Set(stream, index);
  const auto operation = std::make_shared<const Operation>(
      Operation{task.name, stream_name + where_, task.site, stream, index, NextOrder(), task.choices, task.part});
  Count(task);
  if (!Checking()) return operation;
  if (history_) history_->Issued(*operation);
  Conflicts conflicts;
  for (Access access : task.accesses) {
    if (!where_.empty()) access.choice = nullptr;
    shadow_->Touch(access, operation, clock, host_, &conflicts);
  }
  const bool later = !conflicts.empty() && where_.empty() && MayKnowMore(clock);
  for (Conflict& conflict : conflicts) {
    if (history_) conflict.history = history_->Since(*conflict.first);
    if (later) {
      Defer(std::move(conflict), operation, clock);
    } else {
      Judge(std::move(conflict), operation);
    }
  }
  for (const Range range : task.torn) ReportTorn(*operation, range);
  return operation;
}

Clock Checker::ClockOf(StreamId stream) const {
  return stream < streams_.size() ? streams_[stream].clock : Clock();
}

void Checker::Wait(StreamId stream, const Clock& clock) {
  Clock& known = State(stream).clock;
  if (history_ && Checking()) history_->Waited(stream, known, clock);
  known.Join(clock);
}

void Checker::HostSaw(const Clock& clock) {
  if (history_ && Checking()) history_->Waited(History::kHost, host_, clock);
  host_.Join(clock);
  ++host_version_;
}

void Checker::Reuse(Range range, const Clock& clock) { shadow_->ForgetCovered(range, clock); }

void Checker::Forget(Range range) { shadow_->Forget(range); }

size_t Checker::num_intervals() const { return shadow_->num_intervals(); }

Checker& ProcessChecker() {
  struct Process {
    Checker checker{""};
  };
  static Resettable<Process> process;
  return process.get().checker;
}

bool Checking() { return CheckingFlag().load(std::memory_order_relaxed); }
void SetChecking(bool on) { CheckingFlag().store(on); }

Statistics GetStatistics() {
  return {num_tasks.load(), num_copies.load(), num_bytes.load(), ProcessChecker().num_intervals()};
}

}  // namespace emu::races
