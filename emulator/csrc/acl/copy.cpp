// SPDX-License-Identifier: Apache-2.0
// Copies and memsets. Prototypes: torch_npu csrc/core/npu/interface/AsyncTaskQueueInterface.cpp, AclInterface.cpp,
// csrc/framework/utils/CalcuOpUtil.cpp (BSD-3).
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "acl/capture_mode.h"
#include "acl/types.h"
#include "core/device.h"
#include "core/failure.h"
#include "core/graph.h"
#include "core/stream.h"
#include "memory/memory.h"
#include "races/system_calls.h"

namespace {

enum class Where { kDevice, kPageLocked, kPageable };

const char* const kNames[] = {"copy host to host", "copy host to device", "copy device to host",
                              "copy device to device"};

struct Operand {
  char* pointer = nullptr;  // the program's
  Where where = Where::kPageable;
};

Operand Classify(const void* pointer, size_t bytes, bool device, const char* what) {
  Operand operand{static_cast<char*>(const_cast<void*>(pointer)), Where::kPageable};
  if (device) {
    emu::CheckDeviceRange(emu::RangeOf(pointer, bytes), what);
    operand.where = Where::kDevice;
  } else if (emu::IsDevicePointer(pointer)) {
    throw emu::Error(emu::kInvalidParam, std::string(what) + " is device memory, but the copy's kind says host");
  } else if (emu::IsPageLocked(pointer)) {
    operand.where = Where::kPageLocked;
  }
  return operand;
}

struct Copy {
  Operand target;
  Operand source;
  size_t bytes = 0;
  int kind = 0;

  bool Pageable() const { return target.where == Where::kPageable || source.where == Where::kPageable; }
};

Copy Check(void* target, size_t target_bytes, const void* source, size_t bytes, int kind) {
  if (kind < emu::acl::kHostToHost || kind > emu::acl::kDeviceToDevice) {
    throw emu::Error(emu::kInvalidParam, "unknown kind of copy " + std::to_string(kind));
  }
  if (bytes > target_bytes) throw emu::Error(emu::kInvalidParam, "the copy is larger than its target");
  const bool to_device = kind == emu::acl::kHostToDevice || kind == emu::acl::kDeviceToDevice;
  const bool from_device = kind == emu::acl::kDeviceToHost || kind == emu::acl::kDeviceToDevice;
  Copy copy;
  copy.target = Classify(target, bytes, to_device, "the copy's target");
  copy.source = Classify(source, bytes, from_device, "the copy's source");
  copy.bytes = bytes;
  copy.kind = kind;
  return copy;
}

// Pageable memory is the host's own; the checker knows nothing of it.
emu::Task TaskOf(const Copy& copy) {
  emu::Task task;
  task.name = kNames[copy.kind];
  const emu::Range source = emu::RangeOf(copy.source.pointer, copy.bytes);
  const emu::Range target = emu::RangeOf(copy.target.pointer, copy.bytes);
  if (copy.source.where != Where::kPageable) task.accesses.push_back({source, false});
  if (copy.target.where != Where::kPageable) task.accesses.push_back({target, true});
  void* to = emu::EmulatorView(copy.target.pointer);
  const void* from = emu::EmulatorView(copy.source.pointer);
  task.run = [to, from, bytes = copy.bytes] { emu::CopyHost(to, from, bytes); };
  return task;
}

// A pageable source is read at once; a pageable target makes the host wait.
void CopyAsync(const Copy& copy, emu::Stream& stream) {
  if (copy.bytes == 0) return;
  if (copy.Pageable()) emu::ForbidCaptured(stream, "copying from or to pageable host memory");
  emu::Task task = TaskOf(copy);
  if (copy.source.where == Where::kPageable) {
    auto staged = std::make_shared<std::vector<char>>(copy.source.pointer, copy.source.pointer + copy.bytes);
    void* to = emu::EmulatorView(copy.target.pointer);
    task.run = [to, staged] { emu::CopyHost(to, staged->data(), staged->size()); };
  }
  emu::races::WatchSystemCalls();
  emu::Enqueue(stream, std::move(task));
  if (copy.target.where == Where::kPageable) emu::Synchronize(stream);
}

// By itself, on a stream that nothing else is ordered with, and the host waits for it.
void RunSynchronously(emu::Task task) {
  emu::CheckCaptureMode(task.name.c_str());
  emu::Stream& stream = emu::CopyStream(emu::CurrentDevice());
  emu::Enqueue(stream, std::move(task));
  emu::Synchronize(stream);
}

emu::Task MemsetTask(void* pointer, size_t limit, int32_t value, size_t bytes) {
  if (bytes > limit) throw emu::Error(emu::kInvalidParam, "the memset is larger than its target");
  const emu::Range range = emu::RangeOf(pointer, bytes);
  emu::Task task;
  task.name = "memset";
  if (emu::IsDevicePointer(pointer)) {
    emu::CheckDeviceRange(range, "the memset's target");
  } else if (!emu::IsPageLocked(pointer)) {
    throw emu::Error(emu::kInvalidParam, "the memset's target is neither device nor pinned memory");
  }
  task.accesses.push_back({range, true});
  void* to = emu::EmulatorView(pointer);
  task.run = [to, value, bytes] { emu::FillHost(to, value, bytes); };
  return task;
}

// The copies of a batch are told apart by where their pointers lie.
Copy BatchItem(void** targets, size_t* limits, void** sources, size_t* sizes, size_t i) {
  const bool from_device = emu::IsDevicePointer(sources[i]);
  const bool to_device = emu::IsDevicePointer(targets[i]);
  return Check(targets[i], limits[i], sources[i], sizes[i], (from_device ? 2 : 0) + (to_device ? 1 : 0));
}

}  // namespace

EMU_API int aclrtMemcpy(void* target, size_t limit, const void* source, size_t bytes, int kind) {
  return emu::Guarded("aclrtMemcpy", [&] {
    const Copy copy = Check(target, limit, source, bytes, kind);
    if (bytes > 0) RunSynchronously(TaskOf(copy));
  });
}

EMU_API int aclrtMemcpyAsync(void* target, size_t limit, const void* source, size_t bytes, int kind,
                             void* stream) {
  return emu::Guarded("aclrtMemcpyAsync",
                      [&] { CopyAsync(Check(target, limit, source, bytes, kind), emu::StreamOf(stream)); });
}

// The condition is that of pageable targets: this call does not wait for them, the caller does.
EMU_API int aclrtMemcpyAsyncWithCondition(void* target, size_t limit, const void* source, size_t bytes, int kind,
                                          void* stream) {
  return aclrtMemcpyAsync(target, limit, source, bytes, kind, stream);
}

EMU_API int aclrtMemcpyBatch(void** targets, size_t* limits, void** sources, size_t* sizes, size_t count,
                             const void*, size_t*, size_t, size_t* failed) {
  return emu::Guarded("aclrtMemcpyBatch", [&] {
    for (size_t i = 0; i < count; ++i) {
      *failed = i;
      RunSynchronously(TaskOf(BatchItem(targets, limits, sources, sizes, i)));
    }
    *failed = SIZE_MAX;
  });
}

EMU_API int aclrtMemcpyBatchAsync(void** targets, size_t* limits, void** sources, size_t* sizes, size_t count,
                                  const void*, size_t*, size_t, size_t* failed, void* stream) {
  return emu::Guarded("aclrtMemcpyBatchAsync", [&] {
    for (size_t i = 0; i < count; ++i) {
      *failed = i;
      CopyAsync(BatchItem(targets, limits, sources, sizes, i), emu::StreamOf(stream));
    }
    *failed = SIZE_MAX;
  });
}

EMU_API int aclrtMemset(void* pointer, size_t limit, int32_t value, size_t bytes) {
  return emu::Guarded("aclrtMemset", [&] { RunSynchronously(MemsetTask(pointer, limit, value, bytes)); });
}

EMU_API int aclrtMemsetAsync(void* pointer, size_t limit, int32_t value, size_t bytes, void* stream) {
  return emu::Guarded("aclrtMemsetAsync",
                      [&] { emu::Enqueue(emu::StreamOf(stream), MemsetTask(pointer, limit, value, bytes)); });
}
