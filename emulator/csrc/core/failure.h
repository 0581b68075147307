// SPDX-License-Identifier: Apache-2.0
// Errors. The first asynchronous failure is kept: every later call on the process's devices returns it, and the
// process cannot end with status 0.
#pragma once

#include <stdexcept>
#include <string>

namespace emu {

// Public aclError values that callers tell apart (CANN API documentation, "aclError").
constexpr int kSuccess = 0;
constexpr int kRepeatInitialize = 100002;
constexpr int kInvalidParam = 107000;
constexpr int kInvalidDevice = 107001;
constexpr int kNoContext = 107002;
constexpr int kInvalidStream = 107003;
constexpr int kInvalidEvent = 107004;
constexpr int kNotSubscribed = 107015;
constexpr int kMemoryAllocation = 207001;
constexpr int kStreamSyncTimeout = 107020;
constexpr int kEventSyncTimeout = 107022;
constexpr int kReportTimeout = 107021;
constexpr int kCaptureForbidden = 107030;  // ours: CANN's values for capture errors are not public
constexpr int kFeatureNotSupported = 207000;
constexpr int kDeviceError = 507899;

class Error : public std::runtime_error {
 public:
  Error(int code, const std::string& message) : std::runtime_error(message), code_(code) {}
  int code() const { return code_; }

 private:
  int code_;
};

// From a stream's thread: keeps the first failure, prints it at once with operation, stream and Python lines.
// With torch_npu's task queue on (TASK_QUEUE_ENABLE 1 or 2), which drops later work in silence, it ends the
// process.
void ReportAsyncFailure(const std::string& message);

// Throws the asynchronous failure, if there was one.
void ThrowIfFailed();
bool Failed();

// What aclGetRecentErrMsg returns for the calling thread; empty when there is nothing new.
std::string TakeRecentMessage();
void SetRecentMessage(const std::string& message);

// The process uses a device from now on. A child that it forks then has none of its threads: Guarded refuses
// there.
void NoteDeviceUse();

// Body of every entry point: an Error becomes its code, anything else kDeviceError, both with a message.
template <typename Body>
int Guarded(const char* function, Body&& body);

// The process cannot go on: "not emulated: NAME" and misuse that has no way to be returned.
[[noreturn]] void Fatal(const std::string& message);
[[noreturn]] void NotEmulated(const char* name);

namespace internal {
void CheckNotForked();                      // throws Error in a child forked after NoteDeviceUse
int HandleException(const char* function);  // inside a catch block
}  // namespace internal

template <typename Body>
int Guarded(const char* function, Body&& body) {
  try {
    internal::CheckNotForked();
    body();
    return kSuccess;
  } catch (...) {
    return internal::HandleException(function);
  }
}

}  // namespace emu
