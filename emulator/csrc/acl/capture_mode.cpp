// SPDX-License-Identifier: Apache-2.0
#include "acl/capture_mode.h"

#include <atomic>
#include <string>
#include <utility>

#include "acl/types.h"
#include "core/failure.h"

namespace emu {
namespace {

std::atomic<int> num_global{0};  // captures under way that bind every thread
thread_local int num_own = 0;    // captures of this thread that bind it
thread_local int thread_mode = acl::kCaptureGlobal;

}  // namespace

void CaptureBegan(int mode) {
  if (mode == acl::kCaptureGlobal) num_global.fetch_add(1);
  if (mode != acl::kCaptureRelaxed) ++num_own;
}

void CaptureEnded(int mode) {
  if (mode == acl::kCaptureGlobal) num_global.fetch_sub(1);
  if (mode != acl::kCaptureRelaxed) --num_own;
}

int ExchangeCaptureMode(int mode) { return std::exchange(thread_mode, mode); }

void CheckCaptureMode(const char* call) {
  if (thread_mode == acl::kCaptureRelaxed) return;
  const bool bound = num_own > 0 || (thread_mode == acl::kCaptureGlobal && num_global > 0);
  if (bound)
    throw Error(kCaptureForbidden, std::string(call) + " that the host waits for, while a graph is captured");
}

}  // namespace emu
