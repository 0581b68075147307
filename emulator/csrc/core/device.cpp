// SPDX-License-Identifier: Apache-2.0
#include "core/device.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <unordered_map>

#include "core/failure.h"
#include "core/graph.h"
#include "core/settings.h"
#include "races/checker.h"

namespace emu {
namespace {

struct Streams {
  std::mutex mutex;
  std::unordered_map<void*, std::shared_ptr<Stream>> live;
  std::map<int, void*> defaults;  // per device
  std::map<int, void*> copies;
  std::map<int, bool> active;  // devices in use
  uint32_t num_created = 0;
};

Streams& All() {
  static auto* streams = new Streams;
  return *streams;
}

thread_local int thread_device = -1;
std::atomic<int> default_device{-1};

// Under the lock.
void* Create(Streams& all, int device, const std::string& purpose) {
  auto stream = std::make_shared<Stream>(device, all.num_created++, purpose);
  void* handle = stream.get();
  all.live[handle] = std::move(stream);
  return handle;
}

Stream& OfDevice(std::map<int, void*> Streams::* kind, int device, const std::string& purpose) {
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  void*& handle = (all.*kind)[device];
  if (handle == nullptr) handle = Create(all, device, purpose);
  return *static_cast<Stream*>(handle);
}

}  // namespace

void CheckDevice(int device) {
  const int count = GetSettings().num_devices;
  if (device < 0 || device >= count) {
    throw Error(kInvalidDevice, "npu:" + std::to_string(device) + " does not exist: there are " +
                                    std::to_string(count) + " devices (EMULATOR_DEVICES)");
  }
}

int CurrentDevice() {
  if (thread_device >= 0) return thread_device;
  if (default_device >= 0) return default_device;
  throw Error(kNoContext, "the thread has set no device");
}

bool HasCurrentDevice() { return thread_device >= 0 || default_device >= 0; }

void SetCurrentDevice(int device) {
  CheckDevice(device);
  NoteDeviceUse();
  thread_device = device;
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.active[device] = true;
}

void SetDefaultDevice(int device) {
  CheckDevice(device);
  default_device = device;
}

void ResetDevice(int device) {
  CheckDevice(device);
  DrainDevice(device);
  if (thread_device == device) thread_device = -1;
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.active[device] = false;
}

bool DeviceActive(int device) {
  CheckDevice(device);
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.active[device];
}

void* CreateStream(int device) {
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return Create(all, device, "");
}

void DestroyStream(void* handle) {
  Stream& stream = StreamOf(handle);
  stream.WaitFinished(stream.pushed(), -1);
  std::shared_ptr<Stream> last;  // joins the thread after the lock is gone
  {
    const std::lock_guard<std::mutex> issue_lock(IssueLock());
    if (stream.capture) throw Error(kCaptureForbidden, stream.Describe() + " is being captured");
    Streams& all = All();
    const std::lock_guard<std::mutex> lock(all.mutex);
    last = std::move(all.live[handle]);
    all.live.erase(handle);
  }
}

Stream& CopyStream(int device) { return OfDevice(&Streams::copies, device, "the stream for synchronous copies"); }

Stream& StreamOf(void* handle) {
  if (handle == nullptr) return OfDevice(&Streams::defaults, CurrentDevice(), "");
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.live.find(handle);
  if (found == all.live.end()) throw Error(kInvalidStream, "not a live stream");
  return *found->second;
}

std::vector<std::shared_ptr<Stream>> StreamsOf(int device) {
  Streams& all = All();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& [handle, stream] : all.live) {
    if (stream->device() == device) streams.push_back(stream);
  }
  return streams;
}

// Without a limit of its own: whatever a task waits for (ranks, words, host functions) has a deadline.
void DrainDevice(int device) {
  for (const auto& stream : StreamsOf(device)) stream->WaitFinished(stream->pushed(), -1);
}

void SynchronizeDevice(int device, int64_t timeout_ms) {
  ThrowIfFailed();
  const auto streams = StreamsOf(device);
  std::vector<uint64_t> indices;
  races::Clock clock;
  {
    const std::lock_guard<std::mutex> lock(IssueLock());
    for (const auto& stream : streams) {
      if (stream->capture) {
        stream->capture->Invalidate("synchronising the device");
        throw Error(kCaptureForbidden, "synchronising npu:" + std::to_string(device) + " while " +
                                           stream->Describe() + " is being captured");
      }
      indices.push_back(stream->pushed());
      clock.Join(races::ProcessChecker().ClockOf(stream->id()));
    }
  }
  const auto begin = std::chrono::steady_clock::now();
  for (size_t i = 0; i < streams.size(); ++i) {
    int64_t left_ms = timeout_ms;
    if (timeout_ms >= 0) {
      const auto passed = std::chrono::steady_clock::now() - begin;
      const int64_t passed_ms = std::chrono::duration_cast<std::chrono::milliseconds>(passed).count();
      left_ms = std::max<int64_t>(0, timeout_ms - passed_ms);
    }
    if (!streams[i]->WaitFinished(indices[i], left_ms)) {
      throw Error(kStreamSyncTimeout,
                  streams[i]->Describe() + " has not finished after " + std::to_string(timeout_ms) + " ms");
    }
  }
  TellHostSaw(clock);
  ThrowIfFailed();
}

}  // namespace emu
