// SPDX-License-Identifier: Apache-2.0
// An event: the last point of a stream that was recorded into it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "core/stream.h"
#include "races/clock.h"

namespace emu {

// One recording; waits that were issued keep it alive when the event is recorded again or destroyed, or when the
// stream goes.
struct Recording {
  std::string stream;                // for messages
  races::Clock clock;                // what was ordered before it
  std::shared_ptr<Capture> capture;  // recorded while capturing: only waits inside the same graph may use it
  uint32_t node = 0;                 // in the capture
  Range block;                       // recorded while this block went back to its allocator
  std::atomic<bool> done{false};
  std::chrono::steady_clock::time_point when;  // set by the stream's thread

  void Complete();
  bool Wait(int64_t timeout_ms);  // negative: no limit; false after the timeout

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

struct Event {
  bool of_allocators = false;       // made only to follow a stream's progress, which allocators do
  std::shared_ptr<Recording> last;  // null: never recorded, which counts as complete
};

void RecordEvent(Event& event, Stream& stream);
void WaitEvent(Stream& stream, Event& event);  // also how a side stream joins a capture
// True orders the event before the host, unless a library asks for purposes of its own: an allocator, before it
// hands a block out again, or the watchdog of HCCL's process groups.
bool QueryEvent(Event& event);
void SynchronizeEvent(Event& event);
float ElapsedMilliseconds(const Event& begin, const Event& end);

}  // namespace emu
