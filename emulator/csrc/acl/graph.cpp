// SPDX-License-Identifier: Apache-2.0
// Graphs. Prototypes: torch_npu csrc/core/npu/NPUGraph.cpp, NPUGraphsUtils.cpp, interface/AclInterface.cpp
// (BSD-3). Conditional nodes (aclmdlRICond*, aclmdlRICaptureToModelRIBegin) are left out.
#include "core/graph.h"

#include <cstdio>
#include <fstream>
#include <unordered_map>

#include "acl/capture_mode.h"
#include "acl/types.h"
#include "core/failure.h"

namespace {

// Behind an aclmdlRI: a capture under way, then its graph.
struct Model {
  uint32_t id = 0;
  int mode = 0;
  std::shared_ptr<emu::Graph> graph;
};

struct Models {
  std::mutex mutex;
  std::unordered_map<void*, std::shared_ptr<Model>> live;
  uint32_t num_created = 0;
};

Models& All() {
  static auto* models = new Models;
  return *models;
}

std::shared_ptr<Model> ModelOf(void* handle) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  const auto found = All().live.find(handle);
  if (found == All().live.end()) throw emu::Error(emu::kInvalidParam, "not a live graph");
  return found->second;
}

std::shared_ptr<Model> ModelOfId(uint32_t id) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  for (const auto& [handle, model] : All().live) {
    if (model->id == id) return model;
  }
  throw emu::Error(emu::kInvalidParam,
                   "graph " + std::to_string(id) + " was destroyed while it was being captured");
}

std::shared_ptr<emu::Graph> GraphOf(void* handle) {
  const auto graph = ModelOf(handle)->graph;
  if (!graph) throw emu::Error(emu::kInvalidParam, "the graph's capture has not ended, or has failed");
  return graph;
}

// The live graph that a task group belongs to.
std::shared_ptr<emu::Graph> GraphOfGroup(void* group) {
  const std::lock_guard<std::mutex> lock(All().mutex);
  for (const auto& [handle, model] : All().live) {
    if (!model->graph) continue;
    for (const auto& candidate : model->graph->groups) {
      if (candidate.get() == group) return model->graph;
    }
  }
  throw emu::Error(emu::kInvalidParam, "not a task group of a live graph");
}

emu::Capture& CaptureOf(emu::Stream& stream) {
  if (!stream.capture) throw emu::Error(emu::kInvalidParam, stream.Describe() + " is not being captured");
  return *stream.capture;
}

void Begin(emu::Stream& stream, int mode) {
  emu::ThrowIfFailed();
  auto model = std::make_shared<Model>();
  model->mode = mode;
  const std::lock_guard<std::mutex> issue_lock(emu::IssueLock());
  if (stream.capture) throw emu::Error(emu::kCaptureForbidden, stream.Describe() + " is already being captured");
  const std::lock_guard<std::mutex> lock(All().mutex);
  model->id = ++All().num_created;
  All().live[model.get()] = model;
  stream.capture = std::make_shared<emu::Capture>(model->id, stream);
  emu::CaptureBegan(mode);
}

void End(emu::Stream& stream, void** handle) {
  const std::lock_guard<std::mutex> lock(emu::IssueLock());
  const std::shared_ptr<emu::Capture> capture = stream.capture;
  const std::shared_ptr<Model> model = ModelOfId(CaptureOf(stream).id());
  capture->CheckOrigin(stream);
  *handle = model.get();
  emu::CaptureEnded(model->mode);
  try {
    model->graph = capture->End(stream);
  } catch (const emu::Error&) {  // nobody destroys the graph of a capture that failed
    const std::lock_guard<std::mutex> models_lock(All().mutex);
    All().live.erase(model.get());
    throw;
  }
}

}  // namespace

EMU_API int aclmdlRICaptureBegin(void* stream, int mode) {
  return emu::Guarded("aclmdlRICaptureBegin", [&] { Begin(emu::StreamOf(stream), mode); });
}

EMU_API int aclmdlRICaptureEnd(void* stream, void** handle) {
  return emu::Guarded("aclmdlRICaptureEnd", [&] { End(emu::StreamOf(stream), handle); });
}

EMU_API int aclmdlRICaptureGetInfo(void* stream, int* status, void** handle) {
  return emu::Guarded("aclmdlRICaptureGetInfo", [&] {
    emu::Stream& of = emu::StreamOf(stream);
    const std::lock_guard<std::mutex> lock(emu::IssueLock());
    *status = emu::acl::kCaptureNone;
    *handle = nullptr;
    if (!of.capture) return;
    *status = of.capture->valid() ? emu::acl::kCaptureActive : emu::acl::kCaptureInvalidated;
    *handle = ModelOfId(of.capture->id()).get();
  });
}

EMU_API int aclmdlRICaptureThreadExchangeMode(int* mode) {
  *mode = emu::ExchangeCaptureMode(*mode);
  return emu::kSuccess;
}

EMU_API int aclmdlRIGetId(void* handle, uint32_t* id) {
  return emu::Guarded("aclmdlRIGetId", [&] { *id = ModelOf(handle)->id; });
}

EMU_API int aclmdlRIExecuteAsync(void* handle, void* stream) {
  return emu::Guarded("aclmdlRIExecuteAsync", [&] {
    emu::ThrowIfFailed();
    emu::Replay(GraphOf(handle), emu::StreamOf(stream));
  });
}

// Replays that were issued keep what they run.
EMU_API int aclmdlRIDestroy(void* handle) {
  return emu::Guarded("aclmdlRIDestroy", [&] {
    ModelOf(handle);
    const std::lock_guard<std::mutex> lock(All().mutex);
    All().live.erase(handle);
  });
}

EMU_API int aclmdlRICaptureTaskGrpBegin(void* stream) {
  return emu::Guarded("aclmdlRICaptureTaskGrpBegin", [&] {
    emu::Stream& of = emu::StreamOf(stream);
    const std::lock_guard<std::mutex> lock(emu::IssueLock());
    CaptureOf(of).BeginGroup(of);
  });
}

EMU_API int aclmdlRICaptureTaskGrpEnd(void* stream, void** group) {
  return emu::Guarded("aclmdlRICaptureTaskGrpEnd", [&] {
    emu::Stream& of = emu::StreamOf(stream);
    const std::lock_guard<std::mutex> lock(emu::IssueLock());
    *group = CaptureOf(of).EndGroup(of);
  });
}

EMU_API int aclmdlRICaptureTaskUpdateBegin(void* stream, void* group) {
  return emu::Guarded("aclmdlRICaptureTaskUpdateBegin", [&] {
    emu::BeginUpdate(emu::StreamOf(stream), GraphOfGroup(group), static_cast<emu::TaskGroup*>(group));
  });
}

EMU_API int aclmdlRICaptureTaskUpdateEnd(void* stream) {
  return emu::Guarded("aclmdlRICaptureTaskUpdateEnd", [&] { emu::EndUpdate(emu::StreamOf(stream)); });
}

EMU_API int aclmdlRIDebugPrint(void* handle) {
  return emu::Guarded("aclmdlRIDebugPrint",
                      [&] { std::fputs(emu::DescribeGraph(*GraphOf(handle)).c_str(), stderr); });
}

EMU_API int aclmdlRIDebugJsonPrint(void* handle, const char* path, uint32_t) {
  return emu::Guarded("aclmdlRIDebugJsonPrint", [&] {
    std::ofstream file(path);
    file << emu::DescribeGraph(*GraphOf(handle));
    if (!file) throw emu::Error(emu::kInvalidParam, std::string("cannot write ") + path);
  });
}
