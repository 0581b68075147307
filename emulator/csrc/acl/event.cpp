// SPDX-License-Identifier: Apache-2.0
// Events. Prototypes: torch_npu csrc/core/npu/NPUEvent.cpp, NPUEventManager.cpp, interface/AclInterface.cpp
// (BSD-3).
#include "core/event.h"

#include <unordered_map>

#include "acl/types.h"
#include "core/failure.h"
#include "races/trace_gate.h"

namespace {

using emu::Event;

struct Events {
  std::mutex mutex;
  std::unordered_map<void*, std::shared_ptr<Event>> live;
};

Events& All() {
  static auto* events = new Events;
  return *events;
}

// ACL_EVENT_CAPTURE_STREAM_PROGRESS (API documentation of aclrtCreateEventWithFlag): an event to follow a stream's
// progress with. torch_npu's allocators of device and of pinned memory make theirs so (csrc/core/npu, BSD-3).
constexpr uint32_t kProgress = 2;

void* Create(uint32_t flag) {
  auto event = std::make_shared<Event>();
  event->of_allocators = flag == kProgress;
  void* handle = event.get();
  const std::lock_guard<std::mutex> lock(All().mutex);
  All().live[handle] = std::move(event);
  emu::races::SkipNextHook();
  return handle;
}

std::shared_ptr<Event> EventOf(void* handle) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  const auto found = All().live.find(handle);
  if (found == All().live.end()) throw emu::Error(emu::kInvalidEvent, "not a live event");
  return found->second;
}

}  // namespace

EMU_API int aclrtCreateEvent(void** event) {
  return emu::Guarded("aclrtCreateEvent", [&] { *event = Create(0); });
}

EMU_API int aclrtCreateEventWithFlag(void** event, uint32_t flag) {
  return emu::Guarded("aclrtCreateEventWithFlag", [&] { *event = Create(flag); });
}

EMU_API int aclrtCreateEventExWithFlag(void** event, uint32_t flag) {
  return emu::Guarded("aclrtCreateEventExWithFlag", [&] { *event = Create(flag); });
}

EMU_API int aclrtDestroyEvent(void* event) {
  return emu::Guarded("aclrtDestroyEvent", [&] {
    EventOf(event);
    const std::lock_guard<std::mutex> lock(All().mutex);
    All().live.erase(event);
  });
}

EMU_API int aclrtRecordEvent(void* event, void* stream) {
  return emu::Guarded("aclrtRecordEvent", [&] {
    emu::RecordEvent(*EventOf(event), emu::StreamOf(stream));
    emu::races::SkipNextHook();
  });
}

EMU_API int aclrtResetEvent(void* event, void* stream) {
  return emu::Guarded("aclrtResetEvent", [&] {
    emu::StreamOf(stream);
    const auto reset = EventOf(event);
    const std::lock_guard<std::mutex> lock(emu::IssueLock());
    reset->last = nullptr;
  });
}

EMU_API int aclrtStreamWaitEvent(void* stream, void* event) {
  return emu::Guarded("aclrtStreamWaitEvent", [&] { emu::WaitEvent(emu::StreamOf(stream), *EventOf(event)); });
}

EMU_API int aclrtSynchronizeEvent(void* event) {
  return emu::Guarded("aclrtSynchronizeEvent", [&] { emu::SynchronizeEvent(*EventOf(event)); });
}

EMU_API int aclrtQueryEventStatus(void* event, int* status) {
  return emu::Guarded("aclrtQueryEventStatus", [&] {
    *status = emu::QueryEvent(*EventOf(event)) ? emu::acl::kEventComplete : emu::acl::kEventNotReady;
  });
}

// Waits keep what they wait for alive, so that an event may always be destroyed.
EMU_API int aclrtQueryEventWaitStatus(void* event, int* status) {
  return emu::Guarded("aclrtQueryEventWaitStatus", [&] {
    EventOf(event);
    *status = emu::acl::kWaitComplete;
  });
}

EMU_API int aclrtEventElapsedTime(float* milliseconds, void* begin, void* end) {
  return emu::Guarded("aclrtEventElapsedTime",
                      [&] { *milliseconds = emu::ElapsedMilliseconds(*EventOf(begin), *EventOf(end)); });
}

// Microseconds of the device's clock.
EMU_API int aclrtEventGetTimestamp(void* event, uint64_t* timestamp) {
  return emu::Guarded("aclrtEventGetTimestamp", [&] {
    const auto of = EventOf(event);
    std::shared_ptr<emu::Recording> recording;
    {
      const std::lock_guard<std::mutex> lock(emu::IssueLock());
      recording = of->last;
    }
    if (!recording || !recording->done) throw emu::Error(emu::kInvalidEvent, "the event is not complete");
    const auto since = recording->when.time_since_epoch();
    *timestamp = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since).count());
  });
}
