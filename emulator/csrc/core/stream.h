// SPDX-License-Identifier: Apache-2.0
// A stream: tasks in order on a thread of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/task.h"
#include "races/clock.h"

namespace emu {

class Capture;      // core/graph.h
struct TaskUpdate;  // core/replay.cpp

class Stream {
 public:
  Stream(int device, uint32_t id, const std::string& purpose);
  ~Stream();  // drains
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int device() const { return device_; }
  uint32_t id() const { return id_; }  // unique in the process, never reused: the stream's place in vector clocks
  const std::string& Describe() const { return name_; }  // "stream 3 of npu:0", or its purpose

  // Under the issue lock. The task runs after everything pushed before it.
  void Push(Task task);
  // Index (from 1) of the last task pushed, and of the last one finished.
  uint64_t pushed() const { return pushed_.load(); }
  uint64_t finished() const { return finished_.load(); }
  // Waits until task `index` has finished; false after `timeout_ms` (negative: no limit).
  bool WaitFinished(uint64_t index, int64_t timeout_ms);

  // The graph this stream is being captured into, if any. Under the issue lock.
  std::shared_ptr<Capture> capture;
  // Set while the tasks issued here replace those of a captured group. Under the issue lock.
  std::shared_ptr<TaskUpdate> update;

 private:
  void Work();
  void Run(const Task& task, uint64_t index) const;

  const int device_;
  const uint32_t id_;
  const std::string name_;
  std::atomic<uint64_t> pushed_{0};
  std::atomic<uint64_t> finished_{0};
  std::mutex mutex_;
  std::condition_variable pushed_more_;
  std::condition_variable finished_more_;
  std::deque<Task> queue_;
  bool stop_ = false;
  std::thread thread_;  // started with the first task
};

// The order in which the process issues device work; every Push, event record, event wait and clock is under it.
std::mutex& IssueLock();

// The stream behind an aclrtStream (null: the current device's default stream).
// Throws Error (ACL code 107003 and the like) for anything that is not a live stream.
Stream& StreamOf(void* handle);

// The process is ending: no further task begins. Waits a little for those that run.
void StopStreams();

// The host has seen what `clock` stands for complete. Takes the issue lock.
void TellHostSaw(const races::Clock& clock);

// The allocator of the memory may hand it out again: what `clock` stands for is ordered before its next use, and
// before nothing else. Takes the issue lock.
void TellReusable(Range range, const races::Clock& clock);

// On a stream's thread, in a task that calls the host: what is ordered before the task.
const races::Clock& RunningClock();

// Issues `task`: into the graph when the stream is captured, else checked for races and pushed.
// Throws Error when the device has failed before.
void Enqueue(Stream& stream, Task task);

// Waits until everything issued on the stream so far has finished, tells the race checker, and throws Error when
// the device has failed (or with kStreamSyncTimeout after `timeout_ms`).
void Synchronize(Stream& stream, int64_t timeout_ms = -1);

}  // namespace emu
