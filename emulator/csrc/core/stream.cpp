// SPDX-License-Identifier: Apache-2.0
#include "core/stream.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "core/failure.h"
#include "core/graph.h"
#include "core/schedule.h"
#include "core/settings.h"
#include "memory/memory.h"
#include "races/blocks.h"
#include "races/checker.h"
#include "races/exchange.h"
#include "races/host_guard.h"
#include "races/verdict.h"

namespace emu {
namespace {

std::atomic<bool> stopping{false};
std::atomic<int> num_running{0};
std::atomic<pid_t> owner{0};  // the process whose threads they are: a forked child has none
thread_local const races::Clock* running_clock = nullptr;

struct RunningClockScope {
  explicit RunningClockScope(const races::Clock* clock) { running_clock = clock; }
  ~RunningClockScope() { running_clock = nullptr; }
};

// Signals are the program's threads' business; faults stay with who causes them.
void BlockSignals() {
  sigset_t all;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGTRAP, SIGILL, SIGFPE, SIGABRT}) sigdelset(&all, fault);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

// Kernels on a stream's thread do not start threads of their own: order and results stay the same, and many
// streams share few cores.
void RunKernelsAlone() {
  using SetThreads = void (*)(int);
  if (auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) set(1);
}

void Trace(const std::string& stream, const std::string& task) {
  if (GetSettings().trace) std::fprintf(stderr, "[emulator] %s: %s\n", stream.c_str(), task.c_str());
}

// Under the issue lock: the task's closure with the clock of what is ordered before it. The task itself counts as
// well: a replay's host functions may touch what earlier nodes of the graph have copied.
std::function<void()> WithClock(Stream& stream, std::function<void()> run) {
  auto clock = std::make_shared<races::Clock>(races::ProcessChecker().ClockOf(stream.id()));
  clock->Set(stream.id(), stream.pushed() + 1);
  return [clock, run = std::move(run)] {
    const RunningClockScope scope(clock.get());
    run();
  };
}

// Under the issue lock.
void Issue(Stream& stream, Task task) {
  if (task.calls_host) task.run = WithClock(stream, std::move(task.run));
  const auto operation = races::ProcessChecker().Issue(stream.id(), stream.pushed() + 1, stream.Describe(), task);
  for (const Access& access : task.accesses) {
    if (access.range.Empty() || !IsPageLocked(reinterpret_cast<void*>(access.range.begin))) continue;
    races::GuardPinned(GuardedRange(access.range), access.write, operation);
  }
  if (task.issued) {
    task.issued();
    task.run = races::Exchanging(stream.id(), operation->index, races::ProcessChecker().ClockOf(stream.id()),
                                 !task.replays, std::move(task.run));
  }
  stream.Push(std::move(task));
}

}  // namespace

Stream::Stream(int device, uint32_t id, const std::string& purpose)
    : device_(device),
      id_(id),
      name_((purpose.empty() ? "stream " + std::to_string(id) : purpose) + " of npu:" + std::to_string(device)) {}

Stream::~Stream() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  pushed_more_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Stream::Push(Task task) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(task));
    pushed_.fetch_add(1);
    if (!thread_.joinable()) {
      static const int registered = std::atexit(StopStreams);
      (void)registered;
      owner = getpid();
      thread_ = std::thread([this] { Work(); });
    }
  }
  pushed_more_.notify_one();
}

void Stream::Work() {
  BlockSignals();
  RunKernelsAlone();
  pthread_setname_np(pthread_self(), ("npu-stream-" + std::to_string(id_)).substr(0, 15).c_str());
  for (;;) {
    Task task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      pushed_more_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    Run(task, finished_.load() + 1);
    task = Task();  // what it holds goes before anybody hears that it has finished
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_.fetch_add(1);
    }
    finished_more_.notify_all();
  }
}

void Stream::Run(const Task& task, uint64_t index) const {
  num_running.fetch_add(1);
  try {
    if (!task.always && !stopping && !Failed()) DelayTask(id_, index);
    if (task.always || (!stopping && !Failed())) {
      if (!task.always) Trace(Describe(), task.name);
      races::Begin(id_, index);
      if (task.choose) races::Tell(task.choices, task.choose());
      task.run();
    }
  } catch (const std::exception& error) {
    ReportAsyncFailure(task.name + " on " + Describe() + ": " + error.what() + "\n  issued at " +
                       DescribeSite(task.site));
  } catch (...) {
    ReportAsyncFailure(task.name + " on " + Describe() + ": an exception of unknown type");
  }
  num_running.fetch_sub(1);
}

bool Stream::WaitFinished(uint64_t index, int64_t timeout_ms) {
  if (finished() >= index) return true;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto reached = [this, index] { return finished() >= index; };
  if (timeout_ms < 0) {
    finished_more_.wait(lock, reached);
    return true;
  }
  return finished_more_.wait_for(lock, std::chrono::milliseconds(timeout_ms), reached);
}

void StopStreams() {
  if (owner != getpid()) return;
  stopping = true;
  for (int waited_ms = 0; num_running > 0 && waited_ms < 2000; ++waited_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

std::mutex& IssueLock() {
  static auto* lock = new std::mutex;
  return *lock;
}

void TellHostSaw(const races::Clock& clock) {
  const std::lock_guard<std::mutex> lock(IssueLock());
  races::ProcessChecker().HostSaw(clock);
  races::ReleaseGuards(races::ProcessChecker().host());
}

void TellReusable(Range range, const races::Clock& clock) {
  const std::lock_guard<std::mutex> lock(IssueLock());
  races::ProcessChecker().Reuse(range, clock);
  races::ReleaseGuards(range, clock);
}

const races::Clock& RunningClock() {
  static const auto* nothing = new races::Clock;
  return running_clock != nullptr ? *running_clock : *nothing;
}

void Enqueue(Stream& stream, Task task) {
  ThrowIfFailed();
  races::SetBlockBeingFreed({});  // no allocator is at work in this thread any more
  if (task.site == 0) task.site = CurrentSite();
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    if (stream.capture) {
      stream.capture->Add(stream, std::move(task));
      return;
    }
    if (stream.update) {
      AddToUpdate(stream, std::move(task));
      return;
    }
    Issue(stream, std::move(task));
  }
  DelayHost();
  if (GetSettings().blocking) Synchronize(stream);
}

void Synchronize(Stream& stream, int64_t timeout_ms) {
  ForbidCaptured(stream, "synchronising the stream");
  ThrowIfFailed();
  races::Clock clock;
  uint64_t index = 0;
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    index = stream.pushed();
    clock = races::ProcessChecker().ClockOf(stream.id());
  }
  if (!stream.WaitFinished(index, timeout_ms)) {
    throw Error(kStreamSyncTimeout, stream.Describe() + " has " + std::to_string(index - stream.finished()) +
                                        " unfinished tasks after " + std::to_string(timeout_ms) + " ms");
  }
  TellHostSaw(clock);
  ThrowIfFailed();
}

}  // namespace emu
