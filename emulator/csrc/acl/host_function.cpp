// SPDX-License-Identifier: Apache-2.0
// Functions of the program that run in a stream's order. Prototypes: torch_npu csrc/core/npu/NPUGraph.cpp,
// csrc/npu/Graph.cpp (BSD-3).
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "acl/types.h"
#include "core/failure.h"
#include "core/settings.h"
#include "core/stream.h"
#include "races/host_guard.h"

namespace {

using HostFunction = void (*)(void*);

constexpr auto kPoll = std::chrono::milliseconds(50);

// A function that waits for the thread that processes its stream's reports.
struct Report {
  HostFunction function = nullptr;
  void* argument = nullptr;
  emu::races::Clock clock;
  bool done = false;
};

struct Reports {
  std::mutex mutex;
  std::condition_variable changed;
  std::unordered_map<uint32_t, uint64_t> threads;  // by stream id: who processes its reports
  std::unordered_map<uint64_t, std::deque<std::shared_ptr<Report>>> waiting;
};

Reports& All() {
  static auto* reports = new Reports;
  return *reports;
}

void Call(HostFunction function, void* argument, const emu::races::Clock& clock) {
  const emu::races::ActingClock acting(clock);
  function(argument);
}

// On the stream's thread: hands the function to the subscribed thread, and waits for it when the stream is
// blocked.
void Deliver(uint32_t stream, HostFunction function, void* argument, bool blocks) {
  auto report = std::make_shared<Report>(Report{function, argument, emu::RunningClock(), false});
  Reports& all = All();
  std::unique_lock<std::mutex> lock(all.mutex);
  const auto thread = all.threads.find(stream);
  if (thread == all.threads.end()) {
    throw emu::Error(emu::kNotSubscribed, "no thread processes the reports of the stream (aclrtSubscribeReport)");
  }
  all.waiting[thread->second].push_back(report);
  all.changed.notify_all();
  const std::chrono::duration<double> limit(emu::GetSettings().hccl_timeout_s);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (blocks && !all.changed.wait_for(lock, kPoll, [&] { return report->done; })) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw emu::Error(emu::kReportTimeout, "the subscribed thread did not process a host function for " +
                                                std::to_string(limit.count()) + " s (aclrtProcessReport)");
    }
  }
}

emu::Task HostTask(std::function<void()> run) {
  emu::Task task;
  task.name = "host function";
  task.run = std::move(run);
  task.calls_host = true;
  return task;
}

// Runs one waiting function of the calling thread; false when there was none in time.
bool ProcessOne(int32_t timeout_ms) {
  Reports& all = All();
  std::shared_ptr<Report> report;
  {
    std::unique_lock<std::mutex> lock(all.mutex);
    auto& waiting = all.waiting[pthread_self()];
    const auto limit = std::chrono::milliseconds(timeout_ms);
    if (!all.changed.wait_for(lock, limit, [&] { return !waiting.empty(); })) return false;
    report = waiting.front();
    waiting.pop_front();
  }
  Call(report->function, report->argument, report->clock);
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    report->done = true;
  }
  all.changed.notify_all();
  return true;
}

}  // namespace

EMU_API int aclrtLaunchCallback(HostFunction function, void* argument, int block, void* stream) {
  return emu::Guarded("aclrtLaunchCallback", [&] {
    emu::Stream& on = emu::StreamOf(stream);
    const uint32_t id = on.id();
    const bool blocks = block != 0;
    emu::Enqueue(on, HostTask([id, function, argument, blocks] { Deliver(id, function, argument, blocks); }));
  });
}

EMU_API int aclrtLaunchHostFunc(void* stream, HostFunction function, void* argument) {
  return emu::Guarded("aclrtLaunchHostFunc", [&] {
    emu::Enqueue(emu::StreamOf(stream),
                 HostTask([function, argument] { Call(function, argument, emu::RunningClock()); }));
  });
}

EMU_API int aclrtSubscribeReport(uint64_t thread, void* stream) {
  return emu::Guarded("aclrtSubscribeReport", [&] {
    const uint32_t id = emu::StreamOf(stream).id();
    const std::lock_guard<std::mutex> lock(All().mutex);
    All().threads[id] = thread;
  });
}

EMU_API int aclrtUnSubscribeReport(uint64_t, void* stream) {
  return emu::Guarded("aclrtUnSubscribeReport", [&] {
    const uint32_t id = emu::StreamOf(stream).id();
    const std::lock_guard<std::mutex> lock(All().mutex);
    if (All().threads.erase(id) == 0) throw emu::Error(emu::kNotSubscribed, "the stream is not subscribed");
  });
}

EMU_API int aclrtProcessReport(int32_t timeout_ms) {
  return emu::Guarded("aclrtProcessReport", [&] {
    if (!ProcessOne(timeout_ms)) throw emu::Error(emu::kReportTimeout, "no report in time");
  });
}
