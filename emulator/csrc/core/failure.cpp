// SPDX-License-Identifier: Apache-2.0
#include "core/failure.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace emu {
namespace {

constexpr int kFailureStatus = 70;

struct FailureState {
  std::mutex mutex;
  std::atomic<bool> failed{false};
  std::string message;
  pid_t process = 0;  // a forked child is not to blame
};

// Never destroyed: stream threads outlive static objects.
FailureState& State() {
  static auto* state = new FailureState;
  return *state;
}

thread_local std::string recent_message;

std::atomic<bool> device_used{false};
std::atomic<bool> forked_after_use{false};

void NoteFork() { forked_after_use = device_used.load(); }

void Print(const std::string& text) {
  const std::string line = "[emulator] " + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

// torch_npu queues launches unless TASK_QUEUE_ENABLE is 0 or launches block (OptionsManager.cpp, BSD-3).
bool TaskQueueEnabled() {
  const char* blocking = std::getenv("ASCEND_LAUNCH_BLOCKING");
  if (blocking != nullptr && std::strtol(blocking, nullptr, 10) != 0) return false;
  const char* queue = std::getenv("TASK_QUEUE_ENABLE");
  return queue == nullptr || std::strtol(queue, nullptr, 10) != 0;
}

// A process whose device failed does not report success.
void RefuseSuccess(int status, void*) {
  if (status != 0 || !State().failed || State().process != getpid()) return;
  std::fflush(nullptr);
  _exit(kFailureStatus);
}

}  // namespace

void ReportAsyncFailure(const std::string& message) {
  FailureState& state = State();
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    if (state.failed) {
      Print("a later asynchronous failure: " + message);
      return;
    }
    state.message = "asynchronous failure: " + message;
    state.process = getpid();
    state.failed = true;
    Print(state.message);
    on_exit(RefuseSuccess, nullptr);
  }
  if (!TaskQueueEnabled()) return;
  Print("torch_npu's task queue (TASK_QUEUE_ENABLE) would drop later work in silence: ending the process");
  std::fflush(nullptr);
  _exit(kFailureStatus);
}

void ThrowIfFailed() {
  FailureState& state = State();
  if (!state.failed) return;
  const std::lock_guard<std::mutex> lock(state.mutex);
  throw Error(kDeviceError, state.message);
}

bool Failed() { return State().failed; }

std::string TakeRecentMessage() {
  std::string message;
  message.swap(recent_message);
  return message;
}

void SetRecentMessage(const std::string& message) { recent_message = message; }

void Fatal(const std::string& message) {
  Print(message);
  std::abort();
}

void NotEmulated(const char* name) { Fatal(std::string("not emulated: ") + name); }

void NoteDeviceUse() {
  if (device_used.exchange(true)) return;
  pthread_atfork(nullptr, nullptr, NoteFork);
}

void internal::CheckNotForked() {
  if (!forked_after_use) return;
  throw Error(kNoContext,
              "this process was forked from one that uses NPUs, and cannot use them: start it with the "
              "\"spawn\" method of multiprocessing, or fork before the first use of an NPU");
}

int internal::HandleException(const char* function) {
  try {
    throw;
  } catch (const Error& error) {
    SetRecentMessage(std::string(function) + ": " + error.what());
    return error.code();
  } catch (const std::exception& error) {
    SetRecentMessage(std::string(function) + ": " + error.what());
  } catch (...) {
    SetRecentMessage(std::string(function) + ": an exception of unknown type");
  }
  return kDeviceError;
}

}  // namespace emu
