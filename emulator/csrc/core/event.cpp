// SPDX-License-Identifier: Apache-2.0
#include "core/event.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cstring>

#include "core/failure.h"
#include "core/graph.h"
#include "memory/memory.h"
#include "races/blocks.h"
#include "races/checker.h"

namespace emu {
namespace {

// Event tasks run even when the device has failed, because others wait for them.
Task EventTask(const char* name, std::function<void()> run) {
  Task task;
  task.name = name;
  task.run = std::move(run);
  task.always = true;
  return task;
}

// Under the issue lock.
void RecordInCapture(Event& event, Stream& stream) {
  auto recording = std::make_shared<Recording>();
  recording->stream = stream.Describe();
  recording->capture = stream.capture;
  recording->node = stream.capture->Record(stream);
  recording->clock = stream.capture->checker().ClockOf(stream.id());
  event.last = std::move(recording);
}

// Under the issue lock.
void WaitInCapture(Stream& stream, const Recording& recording) {
  if (!recording.capture) {
    stream.capture->Invalidate("waiting for an event that was recorded outside the capture");
    throw Error(kCaptureForbidden, stream.Describe() +
                                       " is being captured and cannot wait for an event that was "
                                       "recorded on " +
                                       recording.stream + " outside the capture");
  }
  if (recording.capture->ended()) {
    throw Error(kCaptureForbidden, "the event was recorded in graph " + std::to_string(recording.capture->id()) +
                                       ", whose capture has ended");
  }
  if (stream.capture && stream.capture != recording.capture) {
    throw Error(kCaptureForbidden, "the event was recorded in the capture of another graph");
  }
  stream.capture = recording.capture;
  stream.capture->Wait(stream, recording.node, recording.clock);
}

// The event's last recording, which another thread (torch_npu's task queue) may be exchanging. Throws Error when
// it belongs to a capture.
std::shared_ptr<Recording> LastOf(const Event& event, const char* what) {
  const std::lock_guard<std::mutex> lock(IssueLock());
  const std::shared_ptr<Recording> last = event.last;
  if (!last || !last->capture) return last;
  if (!last->capture->ended()) last->capture->Invalidate(what);
  throw Error(kCaptureForbidden, std::string(what) + " an event that was recorded in the capture of graph " +
                                     std::to_string(last->capture->id()));
}

// A device block is known to reach at most to the next one that is in use, and to the end of its memory.
Range FreedBlock() {
  Range block = races::BlockBeingFreed();
  const Range live = LiveDeviceRange(block.begin);
  if (!live.Empty()) block.end = std::min(block.end, live.end);
  return block;
}

// torch_npu names the thread that watches over its process groups (csrc/distributed/ProcessGroupHCCL.cpp, BSD-3).
// It looks at their work about once a second, and tells the program nothing of what it saw.
bool IsWatchdog() {
  constexpr char kName[] = "hccl_watchdog";
  char name[16] = {};
  return prctl(PR_GET_NAME, name) == 0 && std::strncmp(name, kName, sizeof kName - 1) == 0;
}

void TellComplete(const Event& event, const Recording& recording) {
  if (IsWatchdog()) return;
  if (event.of_allocators && !recording.block.Empty()) return TellReusable(recording.block, recording.clock);
  TellHostSaw(recording.clock);
}

}  // namespace

void Recording::Complete() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    when = std::chrono::steady_clock::now();
    done = true;
  }
  changed_.notify_all();
}

bool Recording::Wait(int64_t timeout_ms) {
  if (done) return true;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto complete = [this] { return done.load(); };
  if (timeout_ms >= 0) return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), complete);
  changed_.wait(lock, complete);
  return true;
}

void RecordEvent(Event& event, Stream& stream) {
  ThrowIfFailed();
  const std::lock_guard<std::mutex> lock(IssueLock());
  if (stream.capture) return RecordInCapture(event, stream);
  auto recording = std::make_shared<Recording>();
  recording->stream = stream.Describe();
  recording->clock = races::ProcessChecker().ClockOf(stream.id());
  if (event.of_allocators) recording->block = FreedBlock();
  event.last = recording;
  stream.Push(EventTask("record event", [recording] { recording->Complete(); }));
}

void WaitEvent(Stream& stream, Event& event) {
  ThrowIfFailed();
  const std::lock_guard<std::mutex> lock(IssueLock());
  const std::shared_ptr<Recording> recording = event.last;
  if (!recording) return;
  if (stream.capture || recording->capture) return WaitInCapture(stream, *recording);
  races::ProcessChecker().Wait(stream.id(), recording->clock);
  stream.Push(EventTask("wait for event", [recording] { recording->Wait(-1); }));
}

bool QueryEvent(Event& event) {
  ThrowIfFailed();
  const std::shared_ptr<Recording> recording = LastOf(event, "querying");
  if (!recording) return true;
  if (!recording->done) return false;
  TellComplete(event, *recording);
  return true;
}

void SynchronizeEvent(Event& event) {
  ThrowIfFailed();
  if (const std::shared_ptr<Recording> recording = LastOf(event, "synchronising")) {
    recording->Wait(-1);
    TellComplete(event, *recording);
  }
  ThrowIfFailed();
}

float ElapsedMilliseconds(const Event& begin, const Event& end) {
  const auto first = LastOf(begin, "timing");
  const auto last = LastOf(end, "timing");
  if (!first || !last || !first->done || !last->done) {
    throw Error(kInvalidEvent, "both events must have been recorded and be complete");
  }
  return std::chrono::duration<float, std::milli>(last->when - first->when).count();
}

}  // namespace emu
